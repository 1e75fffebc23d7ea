"""Layers by path, however a model is wrapped, and what to say where there is none."""

from collections.abc import Callable, Collection, Iterable
from difflib import SequenceMatcher

from app.errors import UnknownLayer, shown

WRAPPERS = frozenset(  # parts of a path that only say how a model is wrapped
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model", "base_layer"}
)
NAMED = 12  # paths that a refusal lists


def resolve(path: str, there: Collection[str]) -> str:
    """Which of the paths is meant: exactly, else without what wraps it, else the only one that ends so.

    Raises UnknownLayer, which names what is nearest.
    """
    if path in there:
        return path
    core = _outer(path)
    rules: list[Callable[[str], bool]] = [
        lambda name: _outer(name) == core,
        lambda name: _unwrapped(name) == _unwrapped(path),
        lambda name: name.endswith(f".{core}"),
    ]
    for rule in rules:
        # A wrapper and what it wraps give the same: the outer one, which comes first, stands for both.
        fitting = [name for name in there if name and rule(name)]
        if fitting and all(f"{name}.".startswith(f"{fitting[0]}.") for name in fitting):
            return fitting[0]
        if fitting:
            several = ", ".join(fitting[:NAMED])
            raise UnknownLayer(f"{shown(path, 200)} may be any of {several}; give the whole path")
    raise UnknownLayer(f"There is no layer {shown(path, 200)}; there are {_nearest(path, there)}")


def _nearest(path: str, there: Iterable[str]) -> str:
    """The nearest paths in one text, judged by their ends, and how many more there are."""
    parts = path.count(".") + 1

    def likeness(name: str) -> float:
        return SequenceMatcher(None, path, ".".join(name.split(".")[-parts:])).ratio()

    names = sorted(filter(None, there), key=likeness, reverse=True)
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _unwrapped(path: str) -> str:
    """As it is written without any wrapper."""
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def _outer(path: str) -> str:
    """Without the wrappers around the whole."""
    parts = path.split(".")
    while parts and parts[0] in WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)
