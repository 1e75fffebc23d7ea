"""Load on an HTTP server: one request again and again over keep-alive connections, by a cheap client."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvloop


@dataclass(frozen=True)
class Load:
    """What a server did under load. latencies_s: of every request, sorted."""

    seconds: float
    latencies_s: list[float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, share: float) -> float:
        return self.latencies_s[int(share * (len(self.latencies_s) - 1))] * 1000


def put_under_load(
    ports: int | Sequence[int], request: bytes, *, connections: int, seconds: float, expected: int = 200
) -> Load:
    """ports: of one server, or of several that share the connections.

    Raises RuntimeError when an answer has another status.
    """
    ports = [ports] if isinstance(ports, int) else ports
    spread = [ports[place % len(ports)] for place in range(connections)]
    return uvloop.run(_load(spread, request, seconds, str(expected).encode()))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes, media_type: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _load(ports: Sequence[int], request: bytes, seconds: float, status: bytes) -> Load:
    """With a connection to each of the ports."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    callers = [_Caller(request, started + seconds, status) for _ in ports]
    for port, caller in zip(ports, callers, strict=True):
        await loop.create_connection(partial(_itself, caller), "127.0.0.1", port)
    await asyncio.gather(*(caller.ended for caller in callers))
    took = time.perf_counter() - started
    return Load(took, sorted(latency for caller in callers for latency in caller.latencies_s))


def _itself(caller: "_Caller") -> "_Caller":
    return caller


class _Caller(asyncio.Protocol):
    """One connection: asks, reads the answer whole, asks again until the deadline."""

    def __init__(self, request: bytes, deadline: float, status: bytes) -> None:
        self.latencies_s: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._deadline, self._status = request, deadline, status
        self._buffer, self._expected = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._expected:
            self._expected = _length(self._buffer)
        if not self._expected or len(self._buffer) < self._expected:
            return
        now = time.perf_counter()
        self.latencies_s.append(now - self._asked)
        if self._buffer[9:12] != self._status:
            self._end(RuntimeError(self._buffer.decode(errors="replace")))
        elif now < self._deadline:
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("the server closed a connection"))

    def _ask(self) -> None:
        self._buffer, self._expected = b"", 0
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)
            self._transport.close()


def _length(answer: bytes) -> int:
    """Of the whole answer, head included; 0 while the head is not there."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = answer[:end].lower()
    start = head.index(b"content-length:") + len(b"content-length:")
    return end + 4 + int(head[start:].partition(b"\r\n")[0])
