"""Content-addressed bytes: what is stored is found again by its sha256, is whole or not there, and never changes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Blob:
    """sha256: 64 hex digits. size: bytes."""

    sha256: str
    size: int


class Blobs(Protocol):
    def put(self, chunks: Iterable[bytes]) -> Blob:
        """Stores the bytes; they become visible all at once. Storing the same bytes again changes nothing."""

    def put_file(self, path: Path) -> Blob:
        """The same for a file, which is read in chunks."""

    def size(self, sha256: str) -> int | None:
        """In bytes; None: not stored."""

    def read(self, sha256: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, `length` of them or all the rest, in chunks. Raises NotFound before the first chunk."""

    def fetch(self, sha256: str, path: Path) -> None:
        """Writes the whole blob to `path`, verified against its sha256, whole or not at all. Raises NotFound, BlobCorrupt."""

    def check(self) -> None:
        """Raises Unavailable when the store cannot be reached."""
