"""What every request passes: its id, its body's cap, its line in the log, its error when all else fails."""

import re
import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem
from app.api.telemetry import Telemetry
from app.db.ids import new_id
from app.errors import Fault, Invalid, NotFound, PayloadTooLarge, StillhouseError, UnsupportedMediaType, shown
from app.settings import Settings

CLIENT_LEFT = 499  # in the log only: nobody was there to read an answer
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
log = structlog.get_logger()


class FrontDoor:
    """ASGI middleware. The id is at `request.state.request_id` and in every line of the log from here on."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry) -> None:
        self._app, self._settings, self._telemetry = app, settings, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 0
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            _check_url(scope)
            _check_encoding(headers)
            await self._app(scope, _capped(receive, headers, self._settings), answer)
        except Exception as error:
            ours = error if isinstance(error, StillhouseError) else StillhouseError("unexpected")
            if ours.status == 500:
                log.exception("request failed")
            if not status:
                await problem(ours, request_id.decode())(scope, receive, answer)
        finally:
            self._record(scope, status or CLIENT_LEFT, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """By the route's template, for paths carry ids and whatever a stranger types."""
        method, route = scope["method"], getattr(scope.get("route"), "path", "unknown")
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


def _capped(receive: Receive, headers: dict[bytes, bytes], settings: Settings) -> Receive:
    """Raises PayloadTooLarge at once when the length says so, else as soon as more has come than may."""
    length = headers.get(b"content-length", b"0")
    if length == b"0" and b"transfer-encoding" not in headers:
        return receive
    multipart = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
    limit, received = settings.max_upload_bytes if multipart else settings.max_json_bytes, 0
    too_large = PayloadTooLarge(f"The body is larger than {limit:,} bytes, the most that is taken here.")
    if length.isdigit() and int(length) > limit:
        raise too_large

    async def receive_capped() -> Any:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return receive_capped
