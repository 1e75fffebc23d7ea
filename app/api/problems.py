"""Every error leaves as RFC 9457 problem details; none repeats what was sent or says how we are built."""

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.api.faults import faults_in, summary
from app.catalog.spec import JobSpec
from app.errors import (
    Invalid,
    InvalidSpec,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    StillhouseError,
    Unavailable,
    is_full,
)

RETRY_AFTER_S = 1  # where the error does not know better
log = structlog.get_logger()


def install(app: FastAPI) -> None:
    app.add_exception_handler(StillhouseError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(OperationalError, _answer_away)
    app.add_exception_handler(PoolTimeout, _answer_away)
    app.add_exception_handler(OSError, _answer_full)


def problem(error: StillhouseError, request_id: str) -> JSONResponse:
    """The response that tells a client of `error`; what broke on our side is told by its title alone."""
    body = error.body()
    if error.status == 500:
        detail = "This is our mistake. Tell the operator the request id."
        body |= {"code": "internal", "title": StillhouseError.title, "detail": detail, "errors": []}
    body |= {"instance": f"urn:stillhouse:request:{request_id}", "request_id": request_id}
    headers = {}
    if error.status in (429, 503) and (error.retryable or error.retry_after_s):
        headers["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, error.status, headers, media_type="application/problem+json")


async def _answer(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StillhouseError)
    if error.status == 500:
        log.error("request failed", exc_info=error)
    return problem(error, request.state.request_id)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    field = getattr(request.scope["route"], "body_field", None)
    form = field.field_info.annotation if field else None
    faults = faults_in(error.errors(), error.body, form)
    in_body = any(complaint["loc"][0] == "body" for complaint in error.errors())
    kind = InvalidSpec if form is JobSpec and in_body else Invalid
    return problem(kind(summary(faults), *faults), request.state.request_id)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: unknown paths and methods, and bodies whose reading failed."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, StillhouseError):
        return await _answer(request, error.__cause__)
    ours = _OF_STATUS.get(error.status_code)
    response = problem(ours or StillhouseError("unexpected"), request.state.request_id)
    response.headers.update(error.headers or {})
    return response


async def _answer_away(request: Request, error: Exception) -> JSONResponse:
    """The database cannot be reached, or every connection to it is taken."""
    log.error("the database did not answer", exc_info=error)
    return problem(
        Unavailable("The database does not answer; try again in a moment."), request.state.request_id
    )


async def _answer_full(request: Request, error: Exception) -> JSONResponse:
    if not is_full(error):
        raise error
    log.error("the disk is full", exc_info=error)
    return problem(Unavailable("There is no room for this now; try again later."), request.state.request_id)


_OF_STATUS: dict[int, StillhouseError] = {
    400: MalformedBody("The body cannot be read as its Content-Type says."),
    404: NotFound("There is nothing at this path; /docs lists what there is."),
    405: MethodNotAllowed("This path does not offer this method; the Allow header lists those that it does."),
}
