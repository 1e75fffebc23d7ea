"""JSON from outside has one meaning or is an error.

No key twice, no NaN or Infinity, no NUL, no half of a surrogate pair, bounded depth and numbers.
"""

import json
from collections.abc import Iterator
from typing import Any

from app.errors import InvalidData

MAX_DEPTH = 32
_LARGEST = 2**63


class NotStrict(ValueError):
    """Why the text is not strict JSON, in half a sentence."""


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw`; `what` names it in the message. Raises InvalidData."""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
        if not isinstance(value, dict):
            raise NotStrict("an object is expected at its top")
        for text in _texts(value, 1):
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise NotStrict("a text in it holds a NUL or half of a surrogate pair")
    except (ValueError, RecursionError) as error:
        reason = (
            str(error)
            if isinstance(error, NotStrict)
            else "it is cut off, nested too deeply, or not JSON in UTF-8"
        )
        raise InvalidData(f"{what} cannot be read: {reason}. Write it again as plain JSON.") from None
    return value


def walk(value: Any, pointer: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every (JSON pointer, key, value) of the objects in `value`, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            yield here, key, inner
            yield from walk(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{pointer}/{index}")


def _texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise NotStrict(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            yield from value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner, depth + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotStrict("a key stands twice in one object")
    return found


def _constant(_name: str) -> Any:
    raise NotStrict("NaN and Infinity are not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= int(digits) < _LARGEST:
        raise NotStrict("a whole number in it does not fit 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise NotStrict("a number in it is too large")
    return value
