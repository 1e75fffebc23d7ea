"""The class names of a model that is imported, in the order of its logits, or the name of its number."""

from collections.abc import Sequence
from typing import Any

from app.errors import Invalid, LabelMismatch, shown
from app.intake.refusals import refusal

MAX_LENGTH = 200
_FIX = 'Send `labels` as a JSON list of distinct names in the order of the outputs, like ["cat", "dog"].'


def check_target(names: Sequence[Any], pointer: str) -> list[str]:
    """The name of the one number that a regressor answers. Raises Invalid."""
    if len(names) != 1:
        raise _invalid(f"a regressor answers one number, and this has {len(names)} names", pointer)
    return _texts(names, pointer)


def check_labels(names: Sequence[Any], pointer: str) -> list[str]:
    """The names as given, once there are at least two, all distinct, non-empty texts. Raises Invalid."""
    if len(names) < 2:
        raise _invalid(f"a classifier needs at least 2 classes, and this has {len(names)}", pointer)
    seen: set[str] = set()
    for name in _texts(names, pointer):
        if name in seen:
            raise _invalid(f"the label {shown(name)} stands twice", pointer)
        seen.add(name)
    return list(names)


def _texts(names: Sequence[Any], pointer: str) -> list[str]:
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_LENGTH or "\0" in name:
            raise _invalid(f"label {index} is not a text of 1 to {MAX_LENGTH} letters", pointer)
    return list(names)


def check_count(names: Sequence[str], outputs: int) -> None:
    """Raises LabelMismatch unless there is one name an output."""
    if len(names) != outputs:
        fix = f"Send `labels` with exactly {outputs} names, in the order of the outputs."
        raise refusal(
            LabelMismatch,
            f"the model has {outputs} outputs, but {len(names)} labels are given",
            fix,
            pointer="/labels",
        )


def _invalid(detail: str, pointer: str) -> Invalid:
    return refusal(Invalid, detail, _FIX, pointer=pointer, code="invalid_labels")
