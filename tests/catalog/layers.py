"""What two made-up models show at their layers, by path, for tests of losses over layers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Outputs
from app.catalog.spec import LOSSES


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def form(kind: str, **parameters: Any) -> Any:
    return LOSSES[kind].model_validate(parameters)


def shown(**features: Tensor) -> Outputs:
    return Outputs(features=features)


def shapes(features: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(tensor.shape) for path, tensor in features.items()}


def built(loss: Any, student: Outputs, teacher: Outputs, *, rows: int = 0, seed: int = 0) -> nn.Module:
    """The module that the engine would train, in float64."""
    context = Context(shapes(student.features), shapes(teacher.features), rows=rows, seed=seed)
    module = loss.build(context)
    assert isinstance(module, nn.Module)
    return module.double()


def pulled(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The gradients, zeros where none arrives."""
    return list(
        torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True, retain_graph=True)
    )


def called(loss: Any, student: Outputs, teacher: Outputs, **batch: Any) -> Tensor:
    found = loss(student, teacher, Batch(**batch))
    assert isinstance(found, Tensor)
    return found
