"""Routes that read their JSON bodies strictly."""

import re
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from app.api.faults import MAX_FAULTS, suggest
from app.errors import Fault, Invalid, MalformedBody, UnsupportedMediaType, pointer, shown
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

        form: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation or Any)

        async def handle_strictly(request: Request) -> Response:
            _check_content_type(request)
            strict = _StrictRequest(request.scope, request.receive)
            if body := await strict.body():
                read = partial(_read, form, body)
                strict.value = read() if len(body) < SMALL_BYTES else await run_in_threadpool(read)
            return await handle(strict)

        return handle_strictly


class _StrictRequest(Request):
    value: Any = None

    async def json(self) -> Any:
        return self.value


def query_names(route: APIRoute) -> frozenset[str]:
    """The parameters of a route's query; what ends with `{key}` stands for all that begin so."""
    declared = (route.openapi_extra or {}).get("parameters", ())
    described = {one["name"] for one in declared if one["in"] == "query"}
    return frozenset(_asked_for(route.dependant)) | described


def _asked_for(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _asked_for(inner)


def check_query(request: Request, known: frozenset[str]) -> None:
    """A misspelt filter would be a list of everything. Raises Invalid."""
    starts = tuple(name.removesuffix("{key}") for name in known if name.endswith("{key}"))
    unknown = [name for name in request.query_params if name not in known and not name.startswith(starts)]
    if unknown:
        what = "There is no such parameter in the query"
        faults = [
            Fault(pointer("query", name), "unknown_parameter", f"{what}.", suggest(name, known))
            for name in unknown
        ]
        raise Invalid(f"{what}: {shown(unknown[0])}. {faults[0].fix}", *faults[:MAX_FAULTS])


def _read(form: TypeAdapter[Any], body: bytes) -> Any:
    """The value, once it is certain that its types are the form's own: "1" and true are no numbers here,
    though pydantic would take them for some. Raises MalformedBody, RequestValidationError."""
    value = parse_body(body)
    try:
        form.validate_json(body, strict=True)
    except ValidationError as error:
        complaints = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(complaints, body=value) from None
    return value


def _check_content_type(request: Request) -> None:
    """Before the body is read: FastAPI reads it whole and only then looks. Raises UnsupportedMediaType."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _JSON.fullmatch(media_type):
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")
