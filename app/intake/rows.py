"""A row on its way in: what its values are, which type a column has, and what makes a row unusable.

An empty value is a missing one: it is kept where it can be (numbers, texts, labels) and spoils the row where
it cannot (an image, or every input at once).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from app.catalog.labels import label_name
from app.errors import Fault, InvalidData, shown

Kind = Literal["image", "integer", "number", "text"]  # how a column is stored
MAX_LABEL = 200  # characters
LARGEST = 3.4e38  # a float32 holds no more
MOST = 0.9  # a column of so many numbers is one of numbers, and the rest of its rows are bad
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)|n/?a|null|none|-|\?", re.IGNORECASE)
_UNFIT = re.compile("[\0\ud800-\udfff]")


class Image(NamedTuple):
    """An encoded image as it was uploaded. path: its name there, for people."""

    content: bytes
    path: str | None


@dataclass(frozen=True)
class RawRow:
    """number: counted from 1 in its file. reason: why it cannot be used; then it has no values."""

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    split: str | None = None  # where the file itself tells it


class Source(Protocol):
    """A file from outside, read row by row."""

    def columns(self) -> dict[str, "Counter[str]"]:
        """By column, in order: how many values look like what (see `weigh`). May read the whole file."""

    def rows(self) -> Iterator[RawRow]:
        """Every row from the start."""


class UnusableRow(Exception):
    """Carries the reason, for the profile."""


def refusal(pointer: str, reason: str, fix: str) -> InvalidData:
    """The error for a file that cannot be used at all. reason: half a sentence; pointer: of its field."""
    fault = Fault(pointer, "invalid_data", reason, fix)
    return InvalidData(f"What came as {pointer[1:]} cannot be used: {reason}; {fix}.", fault)


def weigh(value: Any) -> str | None:
    """What a value of a typed format speaks for: a Kind, `odd` (no finite number) or None."""
    if value is None or value == "":
        return None
    if isinstance(value, bool | str):
        return "text"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "number"
    return "number" if math.isfinite(value) else "odd"


def weigh_text(text: str) -> str | None:
    """The same for a cell of a CSV file, where everything is text."""
    text = text.strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return "integer" if _is_integer(text) else "number"
    return "odd" if _NO_NUMBER.fullmatch(text) else "text"


def decide(votes: "Counter[str]") -> Kind:
    """The type of a column."""
    if votes["image"]:
        return "image"
    finite = votes["integer"] + votes["number"]
    if not finite or finite + votes["odd"] < MOST * votes.total():
        return "text"
    return "number" if votes["number"] else "integer"


def read_value(name: str, value: Any, kind: Kind) -> Any:
    """A value as it is stored: an Image, an int, a float, a str or None. Raises UnusableRow."""
    if kind == "image":
        if not isinstance(value, Image) or not value.content:
            raise UnusableRow(f"column {shown(name)} holds no image")
        return value
    if value is None or value == "":
        return None
    if kind == "text":
        return _text(name, value)
    number = _number(name, value)
    return int(number) if kind == "integer" else float(number)


def read_label(name: str, value: Any, kind: Kind) -> str | None:
    """The class name: 1, 1.0 and "1" of a column of numbers are all "1". Raises UnusableRow."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind in ("integer", "number") and value != "":
        value = _number(name, value)
    label = label_name(value)
    if label is not None and len(label) > MAX_LABEL:
        raise UnusableRow(f"the label is longer than {MAX_LABEL} characters")
    return None if label is None else _text(name, label)


def _text(name: str, value: Any) -> str:
    if isinstance(value, list | dict | bytes | Image):
        raise UnusableRow(f"column {shown(name)} holds a {type(value).__name__}, not one value")
    text = str(label_name(value))
    if _UNFIT.search(text):
        raise UnusableRow(f"column {shown(name)} holds text that is not valid UTF-8, or a NUL")
    return text


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            raise UnusableRow(
                f"column {shown(name)}: {shown(text, 40)} is no number; leave a missing one empty"
            )
        value = int(text) if _is_integer(text) else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableRow(f"column {shown(name)}: {shown(value, 40)} is no number")
    if not abs(value) <= LARGEST:  # so that NaN is caught too
        raise UnusableRow(f"column {shown(name)}: {shown(value, 40)} is no finite number of a common size")
    return value


def _is_integer(number: str) -> bool:
    """Of a text that is a number: whether it is a whole one that fits 64 bits."""
    return len(number) <= 18 and number.lstrip("+-").isdecimal()
