"""A TCP proxy with bad days: it stalls, resets, cuts answers short, or answers 500 by itself.

It stands in front of a real server in a thread of the runner. Its mood holds for all connections, those that
are open too.
"""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

Mood = Literal["well", "stall", "reset", "truncate", "error"]
_REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CUT = 700  # bytes that a connection lets through before it is cut
_TICK_S = 0.02


class Proxy:
    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self.mood: Mood = "well"
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(writer)
            return
        pumps = [
            asyncio.ensure_future(self._pump(reader, back, writer, answers=False)),
            asyncio.ensure_future(self._pump(there, writer, writer, answers=True)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the proxy ends
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for one in (writer, back):
                one.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await self._while_stalled()
                if self.mood == "reset":
                    _reset(client)
                    return
                if self.mood == "error" and not answers:
                    client.write(_REFUSAL)
                    await client.drain()
                    return
                if self.mood == "truncate" and answers:
                    target.write(chunk[:_CUT] if len(chunk) > _CUT else chunk[: len(chunk) // 2])
                    await target.drain()
                    return
                target.write(chunk)
                await target.drain()

    async def _while_stalled(self) -> None:
        while self.mood == "stall":  # noqa: ASYNC110 - another thread changes it
            await asyncio.sleep(_TICK_S)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST instead of FIN."""
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
