"""What each connection may cost before a request is one: seconds, bytes, places in line.

uvicorn keeps a half-open request for ever and collects headers and answers without end. Here the headers have
a deadline, a size and a number; a body has a least pace, as has whoever reads an answer; the requests sent
ahead and the connections have a number. Time in which nobody waits for the client counts for nothing: while
the application is busy with what has come, or reading is paused. What follows the last chunk of a body is
passed over, up to a size: a header there would be one that nobody before us has looked at.

Whoever breaks a rule gets problem details if an answer has not begun, and then the line is closed.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api import request_head
from app.api.problems import problem
from app.db.ids import new_id
from app.errors import HeadersTooLarge, MalformedRequest, RequestTimedOut, StillhouseError, Unavailable
from app.settings import Settings

MAX_AHEAD = 32  # requests in line behind the one that is answered
LINGER_S = 1.0  # for the client to read an answer that came before its request was over


class Connection(HttpToolsProtocol):
    """One client's connection. A clock looks at it a few times in each of its deadlines."""

    settings: ClassVar[Settings]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._over = False  # nothing that comes is read any more
        self._ending = False
        self._refusal: StillhouseError | None = None
        self._head_since: float | None = self.loop.time()
        self._head_bytes = 0
        self._body_since: float | None = None
        self._body_bytes = 0
        self._beside_bytes = 0  # of a body that is under way: what came since and was none of it
        self._write_since: float | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._tick_s = min(1.0, self.settings.header_s / 4, self.settings.body_s / 4)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(Unavailable("Too many connections are open; try again in a moment."))
        else:
            self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        idle = self._body_since is None and (self.cycle is None or self.cycle.response_complete)
        if self._head_since is None and idle:
            self._head_since, self._head_bytes = self.loop.time(), 0
        if self._head_since is not None:
            self._head_bytes += len(data)
        self._beside_bytes += len(data)
        super().data_received(data)
        if self._over:
            return
        most = self.settings.max_header_bytes
        head_is_long = self._head_since is not None and self._head_bytes > most
        if head_is_long or (self._body_since is not None and self._beside_bytes > most):
            self._refuse(_too_large(self.settings))

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to whatever its parser, or a rule in a callback of it, does not take."""
        self._refuse(self._refusal or MalformedRequest("The bytes received are no HTTP/1.1 request."))

    def pause_writing(self) -> None:
        self._write_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_since = None
        super().resume_writing()

    # ---- what the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_since is None:
            self._head_since, self._head_bytes = self.loop.time(), 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_since is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.headers) > self.settings.max_headers or size > self.settings.max_header_bytes:
            self._refusal = _too_large(self.settings)
            raise self._refusal
        if len(self.pipeline) >= MAX_AHEAD:
            self._refusal = Unavailable("Too many requests were sent ahead of their answers.")
            raise self._refusal
        upgrades = self.parser.should_upgrade()
        try:
            request_head.check(self.parser.get_http_version(), self.url, self.headers, upgrades=upgrades)
        except MalformedRequest as error:
            self._refusal = error
            raise
        self._head_since = None
        super().on_headers_complete()
        if upgrades:  # it is answered as any other; what follows it is read by nobody
            self._over, self.cycle.keep_alive = True, False
        self._body_since, self._body_bytes, self._beside_bytes = self.loop.time(), 0, 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._beside_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_since = None
        super().on_message_complete()

    # ---- the clock

    def _look_later(self) -> None:
        self._clock = self.loop.call_later(self._tick_s, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        self._look_at_head(now)
        self._look_at_body(now)
        if self._write_since is not None and now - self._write_since > self.settings.body_s:
            self.transport.abort()
        elif not self._ending:
            self._look_later()

    def _look_at_head(self, now: float) -> None:
        if self._head_since is None:
            return
        if self.flow.read_paused:
            self._head_since = now
        elif now - self._head_since > self.settings.header_s:
            self._refuse(RequestTimedOut(f"The headers took longer than {self.settings.header_s:g} seconds."))

    def _look_at_body(self, now: float) -> None:
        if self._body_since is None or self._ending:
            return
        if self.cycle.response_complete:
            if now - self._body_since > LINGER_S:
                self._hang_up()
        elif self.flow.read_paused or self.cycle.body or self.cycle.waiting_for_100_continue:
            self._body_since, self._body_bytes = now, 0
        elif now - self._body_since > self.settings.body_s:
            if self._body_bytes < self.settings.min_body_rate * self.settings.body_s:
                least = f"{self.settings.min_body_rate:,} bytes a second"
                self._refuse(RequestTimedOut(f"The body came more slowly than {least}; send it again."))
            self._body_since, self._body_bytes = now, 0

    # ---- the end

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_since is not None:  # from here on the rest of the body is passed over, for a moment
            self._body_since = self.loop.time()

    def _refuse(self, error: StillhouseError) -> None:
        """Says why, where the line is free for it, and ends the connection."""
        cycle = self.cycle
        self._over, self._head_since = True, None
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False  # what is wrong came after it: it is answered, and then the line closed
            return
        silent = cycle is None and self._head_bytes == 0 and isinstance(error, RequestTimedOut)
        answered = cycle is not None and cycle.response_complete and self._body_since is not None
        begun = cycle is not None and not cycle.response_complete and cycle.response_started
        if cycle is not None and not cycle.response_complete:
            self._abandon()
        if not (begun or answered or silent or self.transport.is_closing()):
            self.transport.write(_written(error))
        self._hang_up()

    def _abandon(self) -> None:
        """The application learns that its client is gone; what it still answers goes nowhere."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
        self.pipeline.clear()

    def _hang_up(self) -> None:
        """First for writing only: a close with unread bytes would be a reset, and take the answer along."""
        self._over = self._ending = True
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(LINGER_S, self.transport.abort)


def connection_class(settings: Settings) -> type[Connection]:
    """For uvicorn, which makes one for each connection and knows no settings of ours."""
    return type("BoundConnection", (Connection,), {"settings": settings})


def _too_large(settings: Settings) -> HeadersTooLarge:
    most = f"{settings.max_header_bytes:,} bytes and {settings.max_headers} headers"
    return HeadersTooLarge(f"The request line and its headers are larger than {most}, the most taken here.")


def _written(error: StillhouseError) -> bytes:
    """The whole response, outside of any request."""
    request_id = new_id("req")
    response = problem(error, request_id)
    headers: list[tuple[bytes, Any]] = [
        *response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")
    ]  # fmt: skip
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body)
