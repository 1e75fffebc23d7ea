"""The lock on every route, opened before anything of the body is read, and the log of who came through."""

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from app.api.rate_limits import RateLimits
from app.api.strict_route import StrictRoute, check_query, query_names
from app.errors import Invalid, Overloaded, StillhouseError, Unauthenticated
from app.ports.parts import Parts
from app.services import access, audit, keys
from app.services.access import Principal, Scope
from app.services.audit import Deed, DenialGauge
from app.services.meter import Meter

SSE = "text/event-stream"
TRUSTED_S = 1.0  # after which a key that still reads is looked up again


class LockedRoute(StrictRoute):
    """Finds out who is asking and puts the principal at `request.state.principal`.

    Not a dependency, for FastAPI reads and parses the whole body before it looks at those.
    """

    scope: Scope
    of_installation: bool

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, known = super().get_route_handler(), query_names(self)
        scope, of_installation = self.scope, self.of_installation

        async def handle_locked(request: Request) -> Response:
            page = _Page(request, writes=scope != "predict" and request.method != "GET")
            request.scope["fastapi_function_astack"].push_async_exit(page.write)
            principal = request.state.principal = await _authenticate(request)
            _count(request, principal, scope)
            access.demand(principal, scope, of_installation=of_installation)
            if request.scope["query_string"]:
                check_query(request, known)
            began = time.monotonic()
            page.response = await handle(request)
            if request.method == "GET" and time.monotonic() - began > TRUSTED_S:
                await _authenticate(request)
            if isinstance(page.response, StreamingResponse) and page.response.media_type == SSE:
                page.response.body_iterator = _while_let_in(request, page.response.body_iterator)
            return page.response

        return handle_locked


class _Page:
    """Of the audit log: written when the sessions of a request are closed, and before it is answered."""

    def __init__(self, request: Request, *, writes: bool) -> None:
        self._request, self._writes = request, writes
        self.response: Response | None = None

    async def write(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """error: what the request failed with, the commit of its session included."""
        status, code = _told(error, self.response)
        deed = self._deed(status, code)
        if status in audit.DENIED:
            gauge: DenialGauge = self._request.app.state.denials
            if not gauge.passes(deed.project_id):
                return
        elif not self._writes:
            return
        state = self._request.app.state
        await state.scribe.write(state.parts.sessions, deed)

    def _deed(self, status: int, code: str | None) -> Deed:
        request = self._request
        principal: Principal | None = getattr(request.state, "principal", None)
        location = self.response.headers.get("location") if self.response and status < 400 else None
        return Deed(
            project_id=principal.project_id if principal else None,
            key_id=principal.key_id if principal else None,
            method=request.method,
            route=request.scope["route"].path,
            path=location or request.url.path,
            status=status,
            code=code,
            request_id=request.state.request_id,
        )


async def _authenticate(request: Request) -> Principal:
    """Raises Unauthenticated, Forbidden. While keys are off it needs neither the database nor a thread."""
    parts: Parts = request.app.state.parts
    if parts.settings.bootstrap_key is None:
        return keys.trust_loopback(request.headers)
    return await run_in_threadpool(_look_up, parts, request)


async def _while_let_in(request: Request, stream: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """A stream goes on for ever; it ends with its key."""
    looked = time.monotonic()
    async for piece in stream:
        if time.monotonic() - looked > TRUSTED_S:
            try:
                await _authenticate(request)
            except Unauthenticated:
                return
            looked = time.monotonic()
        yield piece


def _look_up(parts: Parts, request: Request) -> Principal:
    with parts.sessions.read() as session:
        return keys.authenticate(session, parts.settings, request.headers)


def _count(request: Request, principal: Principal, scope: Scope) -> None:
    """While keys are off there is nobody to count. Raises Overloaded."""
    if principal.key_id is None:
        return
    meter: Meter = request.app.state.meter
    meter.count_use(principal.key_id)
    limits: RateLimits = request.app.state.rate_limits
    request.state.headers, wait_s = limits.take(principal.key_id, scope)
    if wait_s is not None:
        raise Overloaded(
            f"This key has asked as often as it may for now: come again in {wait_s} s.", retry_after_s=wait_s
        )


def _told(error: BaseException | None, response: Response | None) -> tuple[int, str | None]:
    """The status and the code of the answer."""
    if error is None and response is not None:
        return response.status_code, None
    if isinstance(error, RequestValidationError):
        return Invalid.status, Invalid.code
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, StillhouseError):
            return _told(error.__cause__, None)
        return error.status_code, None
    if isinstance(error, StillhouseError):
        return error.status, error.code
    return StillhouseError.status, StillhouseError.code
