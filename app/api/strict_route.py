"""Routes that read their JSON bodies strictly."""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Form
from fastapi.routing import APIRoute

from app.errors import MalformedBody, UnsupportedMediaType
from app.strict_json import NotStrict, parse_json

SMALL_BYTES = 64 * 1024  # a larger body is parsed in a thread, so that others are answered meanwhile
_JSON = re.compile(r"application/(json|[a-z0-9!#$&^_.-]+\+json)")


def parse_body(body: bytes) -> Any:
    """The JSON value of a body. Raises MalformedBody."""
    try:
        return parse_json(body)
    except NotStrict as error:
        raise MalformedBody(f"The body cannot be read: {error}.") from None


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
        return parse_body(body) if len(body) < SMALL_BYTES else await run_in_threadpool(parse_body, body)


def _check_content_type(request: Request) -> None:
    """Before the body is read: FastAPI reads it whole and only then looks. Raises UnsupportedMediaType."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _JSON.fullmatch(media_type):
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")
