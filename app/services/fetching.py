"""A source's files, brought into a folder whole or not at all.

What has come of a file stands beside its place and is gone on from, by this process or the next one. It takes
its place when its size and its hash are those that the source promised.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from app.errors import SourceCorrupt
from app.ports.origin import Broken, Origin, RemoteFile

LEAST_BYTES = 64 * 1024  # of one request that broke, for the next to follow at once
CHUNK = 1024**2


class Fetch:
    """watch: told how many bytes more are here, again and again; what it raises ends the fetching."""

    def __init__(self, origin: Origin, pinned: str, watch: Callable[[int], None]) -> None:
        self._origin, self._pinned, self._watch = origin, pinned, watch

    def __call__(self, file: RemoteFile, place: Path) -> None:
        """Raises SourceCorrupt when what comes is not what was promised, twice, and what an Origin raises."""
        part = place.with_name(f"{place.name}.part")
        for _ in range(2):
            if place.exists():
                return
            self._fill(file, part)
            if part.stat().st_size == file.size and self._has_mark(file, part):
                part.rename(place)
                return
            self._watch(-part.stat().st_size)
            part.unlink()
        name = self._origin.within(file.path)
        raise SourceCorrupt(f"What the source gives as {name} is not what it promises.")

    def _fill(self, file: RemoteFile, part: Path) -> None:
        """Goes on where the file ends, until it has its size."""
        with part.open("ab") as out:
            start = out.tell()
            while start < file.size:
                came = 0
                try:
                    for piece in self._origin.read(self._pinned, file, start):
                        out.write(piece)
                        came += len(piece)
                        self._watch(len(piece))
                except Broken:
                    if came < LEAST_BYTES:
                        raise
                start += came
            out.flush()
            os.fsync(out.fileno())

    def _has_mark(self, file: RemoteFile, part: Path) -> bool:
        """An ETag was compared by the bucket, with each piece."""
        if file.check == "etag":
            return True
        digest = hashlib.sha256() if file.check == "sha256" else hashlib.sha1(usedforsecurity=False)
        if file.check == "git":
            digest.update(b"blob %d\0" % file.size)
        with part.open("rb") as content:
            while chunk := content.read(CHUNK):
                self._watch(0)
                digest.update(chunk)
        return digest.hexdigest() == file.mark
