"""JSON read strictly: what two readers could understand differently, or what could hurt one, is refused.

Strict UTF-8, at most 32 levels, no NaN or Infinity (nor a number that becomes one), no key twice, no NUL, no
half of a surrogate pair, whole numbers of at most 64 bits.
"""

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Form
from fastapi.routing import APIRoute

from app.errors import MalformedBody, UnsupportedMediaType

MAX_DEPTH = 32
SMALL_BYTES = 64 * 1024  # a larger body is parsed in a thread, so that others are answered meanwhile
_JSON = re.compile(r"application/(json|[a-z0-9!#$&^_.-]+\+json)")
_TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: linear on any bytes
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NUL = "\\u0000"
_HALF_PAIR = re.compile(r"\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.IGNORECASE)


def parse_json(body: bytes) -> Any:
    """The value that the bytes say. Raises MalformedBody, which never repeats the bytes."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    _check_depth(body)
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
        raise MalformedBody(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise MalformedBody(_TOO_DEEP) from None


def _check_depth(body: bytes) -> None:
    """Takes the innermost pairs of brackets away, a level at a time; others are left to the parser."""
    brackets = _STRING.sub(b"", body).translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise MalformedBody(_TOO_DEEP)


def _check_escapes(text: str) -> None:
    text = text.replace("\\\\", "--")  # an escaped backslash begins no escape
    if _NUL in text:
        raise MalformedBody("A text in the body contains the character NUL.")
    if _HALF_PAIR.search(text):
        raise MalformedBody("A text in the body contains half of a surrogate pair.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MalformedBody("An object in the body has the same key twice.")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedBody("A number in the body is too large.")
    return number


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise MalformedBody("A whole number in the body has more than 64 bits.")
    return int(digits)


def _no_constant(_name: str) -> Any:
    raise MalformedBody("NaN and Infinity are not JSON numbers.")


class StrictRoute(APIRoute):
    """A route that reads its JSON body strictly, and none that does not say that it is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None or isinstance(self.body_field.field_info, Form):
            return handle

        async def handle_strictly(request: Request) -> Response:
            _check_content_type(request)
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return parse_json(body) if len(body) < SMALL_BYTES else await run_in_threadpool(parse_json, body)


def _check_content_type(request: Request) -> None:
    """Before the body is read: FastAPI reads it whole and only then looks. Raises UnsupportedMediaType."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _JSON.fullmatch(media_type):
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")
