"""Class names: how a raw value becomes one, and the order in which they stand in the logits."""

from collections.abc import Iterable
from typing import Any


def label_name(value: Any) -> str | None:
    """The class name of a raw label: text as it is, whole numbers without a fraction, None: missing."""
    if value is None or value != value or value == "":  # noqa: PLR0124  (NaN differs from itself)
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct names in the one order used everywhere: by number where all are numbers, else by text."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
