"""The stages of a model by depth, and which stage of a student learns from which of a teacher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog.base import Loss, Outputs
from app.catalog.features import FeatureLoss
from app.errors import UnknownLayer
from worker.engine.attention import attends
from worker.engine.features import first
from worker.engine.layer_paths import placed

Pair = tuple[str, str]

_WAY_OUT = "name the layers in `pairs`, as [[student path, teacher path], ...]"


@dataclass(frozen=True)
class Model:
    """One side of a pair: who it is, what asks it, and a batch of its own."""

    whose: str
    module: nn.Module
    ask: Callable[[Tensor], Outputs]
    inputs: Tensor


def paired(forms: Sequence[Loss], student: Model, teachers: Mapping[int, Model]) -> list[Loss]:
    """The losses with every `pairs: auto` made a list. Raises UnknownLayer and ShapeMismatch, pointing at the
    pairs."""

    def matched(form: Loss) -> Loss:
        if not isinstance(form, FeatureLoss) or form.pairs != "auto" or form.teacher not in teachers:
            return form
        look = attentions if form.needs & {"attentions", "values"} else stages
        pairs = by_depth(look(student), look(teachers[form.teacher]))
        return form.paired(pairs[-1:] if form.last_alone else pairs)

    return [placed(f"/losses/{place}/pairs", partial(matched, form)) for place, form in enumerate(forms)]


def by_depth(student: Sequence[str], teacher: Sequence[str]) -> list[Pair]:
    """Stage i of s learns from stage round(i * t / s) of t, counted from 1, so that the last learns from the
    last; of several with the same teacher stage it is the deepest."""
    s, t = len(student), len(teacher)
    deepest = {max(int(i * t / s + 0.5), 1): i for i in range(1, s + 1)}
    return [(student[i - 1], teacher[other - 1]) for other, i in sorted(deepest.items())]


def stages(model: Model) -> list[str]:
    """The paths of its stages, from the first to the last. Raises UnknownLayer.

    They are the children of the outermost list of layers, the largest where there are several. Blocks that
    are no stages themselves, as those of MobileNetV2, make one stage as long as their maps are of one size.
    """
    container, layers = _repeated(model)
    paths = [f"{container}.{path}" for path in layers]
    seen = shapes(model, paths)
    ran = [path for path in paths if path in seen]
    if not ran:
        raise UnknownLayer(f"The stages of the {model.whose} did not run: {_WAY_OUT}")
    blocks = not any(_is_list(one) for path in ran for one in model.module.get_submodule(path).modules())
    if not blocks or any(len(seen[path]) != 4 for path in ran):
        return ran
    return [list(same)[-1] for _, same in groupby(ran, key=lambda path: seen[path][2:])]


def attentions(model: Model) -> list[str]:
    """The attention module of each stage, the last one where there are several. Raises UnknownLayer."""
    found = []
    for stage in stages(model):
        inside = model.module.get_submodule(stage).named_modules()
        paths = [f"{stage}.{path}" for path, one in inside if attends(one)]
        found += paths[-1:]
    if not found:
        raise UnknownLayer(f"No stage of the {model.whose} has an attention module: {_WAY_OUT}")
    return found


def _repeated(model: Model) -> tuple[str, list[str]]:
    """The container whose children are the stages, and the paths in it of what runs."""
    for least in (2, 1):  # a model of one layer has one stage
        found: dict[str, nn.Module] = {}
        for path, one in model.module.named_modules():
            inside = any(f"{path}.".startswith(f"{outer}.") for outer in found)
            if path and not inside and _is_list(one) and len(one) >= least:
                found[path] = one
        if found:
            largest = max(found, key=lambda path: sum(one.numel() for one in found[path].parameters()))
            return largest, list(_run(found[largest]))
    raise UnknownLayer(f"The {model.whose} has no list of layers to match by depth: {_WAY_OUT}")


def _is_list(module: nn.Module) -> bool:
    """A list of layers, or a sequence of layers that are all alike."""
    if isinstance(module, nn.Sequential):
        return len({type(one) for one in module}) == 1
    return isinstance(module, nn.ModuleList) and len(module) > 0


def _run(container: nn.Module) -> Iterator[str]:
    """Of each child; a list does not run itself, but the last one in it ends the stage."""
    for name, child in container.named_children():
        if isinstance(child, nn.ModuleList) and len(child):
            yield f"{name}.{list(_run(child))[-1]}"
        else:
            yield name


@torch.no_grad()
def shapes(model: Model, paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What the layers that run show of the batch; the module's state stays as it is."""
    seen: dict[str, tuple[int, ...]] = {}

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if (tensor := first(output)) is not None:
                seen[path] = tuple(tensor.shape)

        return hook

    hooks = [model.module.get_submodule(path).register_forward_hook(watch(path)) for path in paths]
    training = model.module.training
    try:
        model.module.eval()
        model.ask(model.inputs)
    finally:
        model.module.train(training)
        for one in hooks:
            one.remove()
    return seen
