"""What a student can take over from the weights of another model: which layers, and by which names."""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

from app.catalog.base import Architecture

Layers = Literal["spread"] | int | list[int]

# From a student's names to its teacher's, where families differ: the recipe of DistilBERT (Sanh et al., 2019)
_RENAMED = {
    ("bert", "distilbert"): (
        ("distilbert.transformer.", "bert.encoder."),
        ("distilbert.", "bert."),
        (".attention.q_lin.", ".attention.self.query."),
        (".attention.k_lin.", ".attention.self.key."),
        (".attention.v_lin.", ".attention.self.value."),
        (".attention.out_lin.", ".attention.output.dense."),
        (".sa_layer_norm.", ".attention.output.LayerNorm."),
        (".ffn.lin1.", ".intermediate.dense."),
        (".ffn.lin2.", ".output.dense."),
        (".output_layer_norm.", ".output.LayerNorm."),
    )
}
_STAGED = re.compile(
    r"(?P<before>.*?\b(?:stages|layers))\.(?P<stage>\d+)\.(?P<part>layers|blocks)\.(?P<layer>\d+)\."
)
_PLAIN = re.compile(r"(?P<before>.*?\b(?:layer|layers|h|block))\.(?P<layer>\d+)\.")
_WIDTHS = (("hidden_size", "dim"), ("intermediate_size", "hidden_dim"))


class Misfit(ValueError):
    """Why nothing can be taken over, in a sentence."""


def family(config: Mapping[str, Any]) -> str:
    """Of a config.json, or of a family of our own."""
    return str(config.get("model_type") or config.get("kind"))


def config_of(architecture: Architecture) -> dict[str, Any]:
    """The sizes of a student as a config.json would have them."""
    form = architecture.model_dump(mode="json")
    return form | (form.get("config_of_teacher") or {})


def check_families(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> None:
    """Raises Misfit."""
    theirs, own = family(teacher), family(student)
    if theirs != own and (theirs, own) not in _RENAMED:
        raise Misfit(
            f"a student of the family {own} has no weights in common with one of the family {theirs}"
        )
    for names in _WIDTHS:
        wide, narrow = (
            next((config[one] for one in names if one in config), None) for config in (teacher, student)
        )
        if isinstance(wide, int) and isinstance(narrow, int) and wide != narrow:
            raise Misfit(f"the layers of the one are {wide} wide ({names[0]}), those of the student {narrow}")


def depths(config: Mapping[str, Any]) -> list[int] | None:
    """How many layers each stage has; None: the family does not say."""
    if isinstance(config.get("depths"), list | tuple):
        return [int(depth) for depth in config["depths"]]
    if family(config) == "mlp":
        return [len(config["hidden_sizes"])]
    count = config.get("num_hidden_layers", config.get("n_layers"))
    return [count] if isinstance(count, int) else None


def chosen(layers: Layers, teacher: Mapping[str, Any], student: Mapping[str, Any]) -> list[int] | None:
    """For each of the student's layers the number of the teacher's, both counted from 0 over all stages.

    None: layers are told apart by their names alone. Raises Misfit.

    spread: in each stage evenly from the first to the last, which makes 0, 2, 4, 7, 9, 11 of 12.
    """
    theirs, own = depths(teacher), depths(student)
    if theirs is None or own is None:
        if layers != "spread":
            raise Misfit(f"the layers of the family {family(teacher)} are not numbered; say spread")
        return None
    if layers == "spread":
        return _spread(theirs, own)
    numbers = list(range(0, sum(theirs), layers)) if isinstance(layers, int) else layers
    if beyond := [number for number in numbers if number >= sum(theirs)]:
        raise Misfit(
            f"the teacher has {sum(theirs)} layers, 0 to {sum(theirs) - 1}, and no layer {beyond[0]}"
        )
    if len(numbers) != sum(own):
        raise Misfit(f"{len(numbers)} layers are chosen and the student has {sum(own)}")
    return numbers


def _spread(teacher: Sequence[int], student: Sequence[int]) -> list[int]:
    if len(teacher) != len(student):
        raise Misfit(f"the teacher has {len(teacher)} stages of layers, the student {len(student)}")
    if deeper := [own for own, theirs in zip(student, teacher, strict=True) if own > theirs]:
        raise Misfit(f"the student has {deeper[0]} layers where the teacher has fewer")
    starts = [0, *accumulate(teacher)]
    return [
        start + int(place * (theirs - 1) / max(own - 1, 1) + 0.5)
        for start, theirs, own in zip(starts, teacher, student, strict=False)
        for place in range(own)
    ]


def source(
    name: str, layers: list[int] | None, teacher: Mapping[str, Any], student: Mapping[str, Any]
) -> str:
    """The teacher's name of what a student's tensor is called. layers: as `chosen` gives them."""
    for own, theirs in _RENAMED.get((family(teacher), family(student)), ()):
        name = name.replace(own, theirs, 1)
    theirs_deep, own_deep = depths(teacher), depths(student)
    if layers is None or theirs_deep is None or own_deep is None:
        return name
    if len(own_deep) == 1:
        return _PLAIN.sub(lambda found: f"{found['before']}.{layers[int(found['layer'])]}.", name, count=1)

    def moved(found: re.Match[str]) -> str:
        number = layers[sum(own_deep[: int(found["stage"])]) + int(found["layer"])]
        stage = next(place for place, end in enumerate(accumulate(theirs_deep)) if number < end)
        return f"{found['before']}.{stage}.{found['part']}.{number - sum(theirs_deep[:stage])}."

    return _STAGED.sub(moved, name, count=1)
