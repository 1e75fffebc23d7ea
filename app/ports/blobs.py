"""Content-addressed bytes: found again by their sha256, whole or not there, and never changed."""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Protocol

from app.errors import BlobCorrupt, NotFound, Unavailable
from app.failpoints import failpoint

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK = 4 * 1024**2  # bytes read at once
PART = 8 * 1024**2  # bytes of one part of a large upload; four travel at once
LONGEST_S = 30.0  # of one request to a bucket, in which the slowest line that will do sends a part
RETRIED_S = 20.0  # for which one that failed is repeated; one that took its time is not
REFRESHED = timedelta(hours=6)  # after which storing the same bytes again makes them young
ABANDONED_S = 86_400.0  # after which nobody goes on with a spooled upload
_ETAG = re.compile("[0-9a-f]{32}(-[0-9]+)?")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    """sha256: 64 hex digits. size: bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Stored(Blob):
    """put_at: when its bytes were stored last, give or take REFRESHED."""

    put_at: datetime


class Blobs(Protocol):
    failures: int  # calls that the store did not answer, since this was made

    def put(self, chunks: Iterable[bytes]) -> Blob:
        """Stores the bytes; they become visible all at once. Storing the same bytes again makes them young,
        and whole where what lay there was damaged, and changes nothing else."""

    def put_file(self, path: Path) -> Blob:
        """The same for a file, which is read in chunks."""

    def size(self, sha256: str) -> int | None:
        """In bytes; None: not stored."""

    def read(self, sha256: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, `length` of them or all the rest, in chunks.

        Raises NotFound before the first chunk.
        """

    def fetch(self, sha256: str, path: Path) -> None:
        """Writes the whole blob to `path`, verified against its sha256, or nothing.

        Raises NotFound, BlobCorrupt.
        """

    def all(self) -> Iterator[Stored]:
        """Everything that is stored, in no order."""

    def remove(self, sha256: str, put_before: datetime) -> bool:
        """Takes it away, unless somebody has stored it since; whether it did."""

    def check(self) -> None:
        """Raises Unavailable when the store cannot be reached."""


def file_blobs(folder: Path) -> "ObjectBlobs":
    """Blobs in a folder, which is made if it is missing. A stored blob survives a power cut."""
    from obstore.store import LocalStore

    spool = folder / ".incoming"  # in the same file system, so that a blob can be linked into its place
    spool.mkdir(parents=True, exist_ok=True)
    _sweep(spool)
    return FileBlobs(LocalStore(folder), spool)


def s3_blobs(bucket: str, prefix: str, scratch: Path) -> "ObjectBlobs":
    """Blobs in an S3 bucket; endpoint, region and keys come from the usual AWS_* variables.

    scratch: where uploads are spooled.
    """
    from obstore.store import S3Store

    scratch.mkdir(parents=True, exist_ok=True)
    store = S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": True,
            "timeout": timedelta(seconds=LONGEST_S),
        },  # by the endpoint's scheme
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=RETRIED_S)},
    )
    return ObjectBlobs(store, scratch)


class ObjectBlobs:
    """Blobs in an object store.

    An upload is spooled and hashed in `scratch` first, so that its name is known before its first byte is
    sent, then put create-only. A large one goes in parts, which S3 joins at the end and where obstore offers
    no condition; by then its name has been looked for, and two who race write the same bytes. What is there
    already and young stays if its size and its ETag are right. Parts of an upload that died stay hidden until
    the bucket's own rule removes them. What is read is asked for in pieces, so that a slow reader holds no
    connection open.
    """

    def __init__(self, store: "ObjectStore", scratch: Path) -> None:
        self._store = store
        self._scratch = scratch
        self.failures = 0

    def put(self, chunks: Iterable[bytes]) -> Blob:
        digest, size = hashlib.sha256(), 0
        with NamedTemporaryFile(dir=self._scratch, prefix="put-") as spooled:
            for chunk in chunks:
                digest.update(chunk)
                size += spooled.write(chunk)
            spooled.flush()
            blob = Blob(digest.hexdigest(), size)
            failpoint("blobs.before_put")
            self._publish(spooled, blob)
            failpoint("blobs.after_put")
        return blob

    def put_file(self, path: Path) -> Blob:
        with path.open("rb") as file:
            return self.put(iter(lambda: file.read(CHUNK), b""))

    def size(self, sha256: str) -> int | None:
        try:
            with self._outages():
                return self._store.head(_key(sha256))["size"]
        except FileNotFoundError:
            return None

    def read(self, sha256: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        size = self.size(sha256)
        if size is None:
            raise NotFound(f"There is no stored content with the sha256 {sha256}.")
        return self._pieces(_key(sha256), start, size if length is None else min(size, start + length))

    def fetch(self, sha256: str, path: Path) -> None:
        chunks, digest = self.read(sha256), hashlib.sha256()
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            try:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.close()
                if digest.hexdigest() != sha256:
                    raise BlobCorrupt(f"Stored content is damaged, restore it from a backup: {sha256}.")
                Path(file.name).replace(path)
            finally:
                Path(file.name).unlink(missing_ok=True)

    def all(self) -> Iterator[Stored]:
        with self._outages():
            for found in chain.from_iterable(self._store.list("sha256")):
                name = found["path"].rpartition("/")[2]
                if _DIGEST.fullmatch(name):
                    yield Stored(name, found["size"], found["last_modified"])

    def remove(self, sha256: str, put_before: datetime) -> bool:
        with self._outages(), suppress(FileNotFoundError):
            if self._store.head(_key(sha256))["last_modified"] < put_before:
                self._store.delete(_key(sha256))
                return True
        return False

    def check(self) -> None:
        with self._outages():
            next(iter(self._store.list("sha256/00", chunk_size=1)), None)

    def _publish(self, spooled: "IO[bytes]", blob: Blob) -> None:
        from obstore.exceptions import AlreadyExistsError

        key = _key(blob.sha256)
        with self._outages():
            if blob.size > PART:
                if not self._is_well(blob, spooled):
                    self._store.put(key, Path(spooled.name), chunk_size=PART, max_concurrency=4)
                return
            spooled.seek(0)
            content = spooled.read()
            try:
                self._store.put(key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                if not self._is_well(blob, spooled):
                    self._store.put(key, content, use_multipart=False)

    def _is_well(self, blob: Blob, spooled: "IO[bytes]") -> bool:
        """Whether the same bytes lie there, stored a short while ago, so that nobody takes them away soon."""
        try:
            found = self._store.head(_key(blob.sha256))
        except FileNotFoundError:
            return False
        if found["size"] != blob.size or datetime.now(UTC) - found["last_modified"] >= REFRESHED:
            return False
        etag = (found["e_tag"] or "").strip('"')
        return not _ETAG.fullmatch(etag) or etag == _etag(spooled)

    def _pieces(self, key: str, start: int, end: int) -> Iterator[bytes]:
        for position in range(start, end, CHUNK):
            with self._outages():
                piece = self._store.get_range(key, start=position, end=min(position + CHUNK, end))
            yield bytes(piece)

    @contextmanager
    def _outages(self) -> Iterator[None]:
        """What the store says of its own troubles names hosts and paths; a user hears that it is away."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            self.failures += 1
            detail = "The object store did not answer; try again in a moment."
            raise Unavailable(detail, retry_after_s=5) from error


class FileBlobs(ObjectBlobs):
    """Blobs in a local folder. obstore neither syncs nor streams create-only puts: the spool is linked."""

    def check(self) -> None:
        if not self._scratch.is_dir():
            raise Unavailable("The folder of the stored content is gone.")

    def _publish(self, spooled: "IO[bytes]", blob: Blob) -> None:
        """Over what lies there, which may be damaged; who reads that has the same bytes or none of these."""
        folder = self._scratch.parent
        target, linked = folder / _key(blob.sha256), Path(f"{spooled.name}-linked")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.fsync(spooled.fileno())
        os.link(spooled.name, linked)
        linked.replace(target)
        for made in (target.parent, target.parent.parent, folder):
            _sync_folder(made)


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"


def _etag(spooled: "IO[bytes]") -> str:
    """What S3 calls bytes that were put whole, or in parts: MD5, or of several parts that of their MD5s and
    their number. A store that encrypts may use other names; there the bytes are put anew."""
    spooled.seek(0)
    parts = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: spooled.read(PART), b"")]
    if len(parts) == 1:
        return parts[0].hexdigest()
    joined = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(parts)}" if parts else joined


def _sweep(spool: Path) -> None:
    """What processes that were killed left there; nobody spools for a day."""
    for left in spool.iterdir():
        with suppress(FileNotFoundError):  # its owner, or another sweeper, took it away
            if left.stat().st_mtime < time.time() - ABANDONED_S:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
