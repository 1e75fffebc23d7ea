"""Where imports come from: a repository of a hub, or a prefix of a bucket."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from app.errors import SourceAway

MAX_LISTED = 20_000  # files that a source may have, whatever is taken of them


@dataclass(frozen=True)
class RemoteFile:
    """path: within the source. size: bytes. mark: by what its content is known again, of the kind `check`:
    a sha256, the sha1 that git gives it, or an ETag, which only says that it is still the same."""

    path: str
    size: int
    check: Literal["sha256", "git", "etag"]
    mark: str


class Broken(SourceAway):
    """The connection ended before the file did; what came is good."""


class Origin(Protocol):
    """All of it raises UnknownSource, SourceForbidden, SourceCorrupt, and SourceAway for what may pass."""

    def pin(self) -> tuple[str, list[RemoteFile]]:
        """The source with the commit or the content that it means now, and all its files by path."""

    def within(self, path: str) -> str:
        """A file's path as seen from what the source names."""

    def read(self, pinned: str, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The file's bytes from `start`, never more than it has. Raises Broken where they end early."""

    def close(self) -> None:
        """Gives back connections."""
