"""JSON from outside, read strictly: what two readers could understand differently, or what could hurt one, is
refused.

Strict UTF-8, at most 32 levels, no NaN or Infinity (nor a number that becomes one), no key twice, no NUL, no
half of a surrogate pair, whole numbers of at most 64 bits.
"""

import json
import math
import re
from typing import Any

MAX_DEPTH = 32
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: linear on any bytes
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NUL = "\\u0000"
_HALF_PAIR = re.compile(r"\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.IGNORECASE)


class NotStrict(ValueError):
    """Why the bytes are refused, in half a sentence that never repeats them."""


def parse_json(raw: bytes) -> Any:
    """The value that the bytes say. Raises NotStrict."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise NotStrict(f"it is not UTF-8, byte {error.start} cannot be read") from None
    _check_depth(raw)
    if "\\u" in text:
        _check_escapes(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise NotStrict(f"it is not JSON, {error.msg} at {where}") from None
    except RecursionError:
        raise NotStrict(_TOO_DEEP) from None


def _check_depth(raw: bytes) -> None:
    """Takes the innermost pairs of brackets away, a level at a time; others are left to the parser."""
    brackets = _STRING.sub(b"", raw).translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise NotStrict(_TOO_DEEP)


def _check_escapes(text: str) -> None:
    text = text.replace("\\\\", "--")  # an escaped backslash begins no escape
    if _NUL in text:
        raise NotStrict("a text in it contains the character NUL")
    if _HALF_PAIR.search(text):
        raise NotStrict("a text in it contains half of a surrogate pair")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotStrict("an object in it has the same key twice")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotStrict("a number in it is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise NotStrict("a whole number in it has more than 64 bits")
    return int(digits)


def _no_constant(_name: str) -> Any:
    raise NotStrict("NaN and Infinity are not JSON numbers")
