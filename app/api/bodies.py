"""What the bodies of requests may weigh: each by itself, and together those that are held in memory.

A form goes to disk as it comes and counts for itself only; everything else is kept until it is whole.
"""

from typing import Any

from starlette.types import Receive

from app.errors import PayloadTooLarge, Unavailable
from app.settings import Settings


class Bodies:
    """The bodies that one process holds now."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.waiting = 0  # bytes


class Body:
    """One of them. `receive` raises PayloadTooLarge at once when the length says so, else as soon as more has
    come than may, and Unavailable when all bodies together are more than memory is for."""

    def __init__(self, bodies: Bodies, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._bodies, self._receive, self._headers = bodies, receive, headers
        settings = bodies.settings
        self._is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        self._limit = settings.max_upload_bytes if self._is_form else settings.max_json_bytes
        self._received = 0

    def check_length(self) -> None:
        """Raises PayloadTooLarge."""
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()

    async def receive(self) -> Any:
        message = await self._receive()
        came = len(message.get("body", b""))
        self._received += came
        if not self._is_form:
            self._bodies.waiting += came
        if self._received > self._limit:
            raise self._too_large()
        if came and self._bodies.waiting > self._bodies.settings.max_waiting_bytes:
            raise Unavailable("Too many large bodies are coming in at once; try again in a moment.")
        return message

    def let_go(self) -> None:
        """Its request is over."""
        if not self._is_form:
            self._bodies.waiting -= self._received

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is larger than {self._limit:,} bytes, the most that is taken here.")
