"""What every request passes: its id, its body's cap, its line in the log, its error when all else fails."""

import re
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import traces
from app.api.bodies import Bodies, Body
from app.api.problems import problem
from app.api.telemetry import Telemetry
from app.db.ids import new_id
from app.errors import Fault, Invalid, NotFound, StillhouseError, UnsupportedMediaType, shown
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

UNTRACED = ("/healthz", "/readyz", "/metrics")
CLIENT_LEFT = 499  # in the log only: nobody was there to read an answer
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_MANNERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CLOSED = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
log = structlog.get_logger()


class FrontDoor:
    """ASGI middleware. The id is at `request.state.request_id` and in every line of the log from here on."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry
        self._bodies, self._share = Bodies(settings), settings.trace_predictions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._traced(scope) as span:
            await self._pass(scope, receive, send, span)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, span: "Span | None") -> None:
        started, status = time.perf_counter(), 0
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of two the first, as routes read it
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *_with_manners(message.get("headers", ())),
                    *scope["state"].get("headers", ()),
                    (b"x-request-id", request_id),
                ]
            elif head:
                return  # it was ended behind its headers
            await send(message)
            if head:
                await send({"type": "http.response.body"})

        method, head = scope["method"], scope["method"] == "HEAD"
        scope = {**scope, "method": "GET"} if head else scope
        body = Body(self._bodies, receive, headers)
        try:
            _check_url(scope)
            _check_encoding(headers)
            body.check_length()
            await self._app(scope, body.receive, answer)
        except ClientDisconnect:
            pass  # nobody is there to be told
        except Exception as error:
            ours = error if isinstance(error, StillhouseError) else StillhouseError("unexpected")
            if ours.status == 500:
                log.exception("request failed")
            if not status:
                await problem(ours, request_id.decode())(scope, receive, answer)
        finally:
            body.let_go()
            route = getattr(scope.get("route"), "path", "unknown")
            self._record(method, route, status or CLIENT_LEFT, time.perf_counter() - started)
            if span is not None:
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.route": route, "http.response.status_code": status or CLIENT_LEFT})

    def _traced(self, scope: Scope) -> "AbstractContextManager[Span | None]":
        """Predictions are many and alike, so of those a share only."""
        if not traces.is_on() or scope["path"] in UNTRACED:
            return nullcontext()
        parent = traces.parent_in(scope["headers"])
        if scope["path"].endswith("/predict") and not traces.sampled(self._share, parent):
            return nullcontext()
        return traces.span("request", parent, **{"http.request.method": scope["method"]})

    def _record(self, method: str, route: str, status: int, seconds: float) -> None:
        """By the route's template, for paths carry ids and whatever a stranger types."""
        self._telemetry.count(method, route, status, seconds)
        log.info("request", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 2))


def _check_url(scope: Scope) -> None:
    """No database can look for the character NUL, and nothing is named with it. Raises NotFound, Invalid."""
    if "\0" in scope["path"]:
        raise NotFound("There is nothing at a path with the character NUL; /docs lists what there is.")
    if b"%00" in scope["query_string"]:
        raise Invalid("The query contains the character NUL, which is part of no name here: leave it out.")


def _check_encoding(headers: dict[bytes, bytes]) -> None:
    """No body is unpacked here. Raises UnsupportedMediaType."""
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip()
    if encoding.lower() not in ("", "identity"):
        detail = f"The body has the Content-Encoding {shown(encoding)}; send it as it is, without one."
        fault = Fault(
            "/header/Content-Encoding", "unsupported_encoding", detail, "Leave Content-Encoding out."
        )
        raise UnsupportedMediaType(detail, fault)


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """The client's own where it is short and plain, else a fresh one."""
    given = headers.get(b"x-request-id", b"")
    return given if _REQUEST_ID.fullmatch(given) else new_id("req").encode()


def _with_manners(given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with those that every answer needs, where a route has not said otherwise: nothing is
    guessed, framed or told to others, and nothing is kept but what can be asked for again by its ETag."""
    headers = list(given)
    names = {name.lower() for name, _ in headers}
    if b"cache-control" not in names:
        headers.append((b"cache-control", b"private, no-cache" if b"etag" in names else b"no-store"))
    if b"content-security-policy" not in names:
        headers.append((b"content-security-policy", _CLOSED))
    return [*headers, *(manner for manner in _MANNERS if manner[0] not in names)]
