"""Layers of a module by path, and where in the spec an error about one belongs."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from app.catalog.layer_paths import resolve
from app.errors import Fault, Invalid, UnknownLayer, shown

T = TypeVar("T")


def find(model: nn.Module, path: str) -> nn.Module:
    """The layer of this path, however the model is wrapped. Raises UnknownLayer."""
    layers: dict[str, nn.Module] = dict(model.named_modules())
    layer = layers[resolve(path, layers)]
    if isinstance(layer, nn.ModuleList | nn.ModuleDict):
        inside = ", ".join(f"{path}.{name}" for name, _ in layer.named_children())
        raise UnknownLayer(
            f"{shown(path, 200)} is a list of layers, of which each is run by itself: {inside}"
        )
    return layer


def placed(pointer: str, look: Callable[[], T]) -> T:
    """What `look` finds; what it refuses points at this part of the spec, unless it says itself where."""
    try:
        return look()
    except Invalid as error:
        raise at(pointer, error) from None


def at(pointer: str, error: Invalid) -> Invalid:
    if error.faults:
        return error
    fix = "name layers that are there, as GET /v1/models/{name}/versions/{version}/layers lists them"
    return type(error)(error.detail, Fault(pointer, error.code, error.detail, fix))
