"""Layers by path, however a model is wrapped, and what to say where there is none."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

from torch import nn

from app.errors import Fault, Invalid, UnknownLayer, shown

WRAPPERS = frozenset(  # parts of a path that only say how a model is wrapped
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model", "base_layer"}
)
NAMED = 12  # paths that a refusal lists

T = TypeVar("T")


def find(model: nn.Module, path: str) -> nn.Module:
    """The layer of this path: exactly, else without the parts that wrap it, else the only one that ends so.

    Raises UnknownLayer, which names what is nearest.
    """
    layers: dict[str, nn.Module] = dict(model.named_modules())
    layer = layers[path if path in layers else _unwrapped(path, layers)]
    if isinstance(layer, nn.ModuleList | nn.ModuleDict):
        inside = ", ".join(f"{path}.{name}" for name, _ in layer.named_children())
        raise UnknownLayer(
            f"{shown(path, 200)} is a list of layers, of which each is run by itself: {inside}"
        )
    return layer


def unwrapped(path: str) -> str:
    """As it is written without any wrapper."""
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


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


def nearest(path: str, there: Iterable[str]) -> str:
    """The nearest paths in one text, and how many more there are."""
    names = [name for name in there if name]
    close = get_close_matches(path, names, n=NAMED, cutoff=0.5)
    close += [name for name in names if name not in close][: NAMED - len(close)]
    more = f" and {len(names) - len(close)} others" if len(names) > len(close) else ""
    return ", ".join(close) + more


def _unwrapped(path: str, layers: Iterable[str]) -> str:
    names = list(layers)
    core = _outer(path)
    rules: list[Callable[[str], bool]] = [
        lambda name: _outer(name) == core,
        lambda name: unwrapped(name) == unwrapped(path),
        lambda name: name.endswith(f".{core}"),
    ]
    for rule in rules:
        # A wrapper and what it wraps give the same: the outer one, which comes first, stands for both.
        fitting = [name for name in names if name and rule(name)]
        if fitting and all(f"{name}.".startswith(f"{fitting[0]}.") for name in fitting):
            return fitting[0]
        if fitting:
            several = ", ".join(fitting[:NAMED])
            raise UnknownLayer(f"{shown(path, 200)} may be any of {several}; give the whole path")
    raise UnknownLayer(f"There is no layer {shown(path, 200)}; there are {nearest(path, names)}")


def _outer(path: str) -> str:
    """Without the wrappers around the whole."""
    parts = path.split(".")
    while parts and parts[0] in WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)
