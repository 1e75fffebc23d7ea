"""Unpacks zip and tar archives from outside. Limits hold while reading: what a header says is never believed.

Refused: links and devices, encrypted entries, absolute, parent and doubled names, and what unpacks to more
than the limits.
"""

import gzip
import io
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from app.errors import Invalid, UnsafeFormat, shown

CHUNK_BYTES = 1024 * 1024
FREE_BYTES = 4 * 1024 * 1024  # so little may have any ratio: a file of zeros is no attack
MAX_NAME_BYTES = 240
MAX_DEPTH = 16
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeError,
)


@dataclass(frozen=True)
class Limits:
    """How much one upload may be. max_ratio: bytes out of one archived byte; max_pixels: of an image."""

    max_bytes: int
    max_entries: int
    max_ratio: int
    max_pixels: int


@dataclass(frozen=True)
class _Entry:
    """stream: the content; None: a folder. packed_bytes: its size in the archive; None: unknown."""

    name: str
    stream: IO[bytes] | None
    packed_bytes: int | None = None


def kind(path: Path) -> Literal["zip", "tar"] | None:
    """What the file is by its first bytes; None: no archive that is read here."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" else None


def extract(path: Path, folder: Path, limits: Limits) -> list[str]:
    """Unpacks a zip, tar or tar.gz into `folder`, which must be empty; returns its files' names, sorted.

    Raises UnsafeFormat for what could harm the reader, and Invalid for what is damaged, empty or no archive.
    """
    packed = kind(path)
    if packed is None:
        raise Invalid("This is no archive that is read here; send a zip, a tar or a tar.gz.")
    room = _Room(limits, path.stat().st_size)
    entries = _zip_entries(path) if packed == "zip" else _tar_entries(path, room)
    names: list[str] = []
    try:
        for count, entry in enumerate(entries, start=1):
            if count > limits.max_entries:
                raise UnsafeFormat(
                    f"The archive holds more than {limits.max_entries:,} entries, the limit here."
                )
            _check_name(entry.name)
            if entry.stream is None:
                _make_folder(folder / entry.name, entry.name)
            else:
                _write(entry, entry.stream, folder, room)
                names.append(entry.name)
    except _DAMAGED:
        raise Invalid("The archive is damaged; pack it again.") from None
    if not names:
        raise Invalid("The archive holds no files.")
    return sorted(names)


class _Room:
    """Counts unpacked bytes against the total and the ratio."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self.max_bytes, self.max_ratio = limits.max_bytes, limits.max_ratio
        self._archive_bytes, self._used = archive_bytes, 0

    def take(self, size: int) -> None:
        self._used += size
        if self._used > self.max_bytes:
            raise UnsafeFormat(f"The archive unpacks to more than {self.max_bytes:,} bytes, the limit here.")
        self.check_ratio(self._used, self._archive_bytes, "The archive")

    def check_ratio(self, size: int, packed: int, what: str) -> None:
        if size > FREE_BYTES and size > self.max_ratio * packed:
            raise UnsafeFormat(
                f"{what} unpacks to more than {self.max_ratio} times its size, as only an attack does."
            )


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.orig_filename  # `filename` ends at the first NUL
            mode = stat.S_IFMT(info.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeFormat(f"Entry {shown(name)} is a link or a device; pack plain files only.")
            if info.flag_bits & 0x41:
                raise UnsafeFormat(f"Entry {shown(name)} is encrypted; pack it without a password.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Invalid(
                    f"Entry {shown(name)} is compressed in a way that is not read here; use deflate."
                )
            if info.header_offset < 0:
                raise zipfile.BadZipFile("its directory points before its beginning")
            if name.endswith("/"):
                yield _Entry(name.rstrip("/"), None)
                continue
            with archive.open(info) as stream:
                yield _Entry(name, stream, info.compress_size)


def _tar_entries(path: Path, room: _Room) -> Iterator[_Entry]:
    with path.open("rb") as raw:
        unpacked = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        metered = io.BufferedReader(_Metered(unpacked, room))
        with tarfile.open(fileobj=metered, mode="r|", bufsize=CHUNK_BYTES // 4) as archive:  # forward only
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                name = member.name.removeprefix("./")
                if not (member.isdir() or member.isreg()) or member.issparse():
                    raise UnsafeFormat(f"Entry {shown(name)} is a link or a device; pack plain files only.")
                yield _Entry(name, archive.extractfile(member) if member.isreg() else None)


class _Metered(io.RawIOBase):
    """A tar's bytes, counted as they are unpacked: its headers can be a bomb as well as its files."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, room: _Room) -> None:
        self._source, self._room = source, room

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        piece = self._source.read(len(buffer))
        self._room.take(len(piece))
        buffer[: len(piece)] = piece
        return len(piece)


def _check_name(name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts:
        raise UnsafeFormat(f"Entry {shown(name)} points out of the archive; pack names below one folder.")
    if "\\" in name or not name.isprintable() or "" in parts or ("." in parts and name != "."):
        raise UnsafeFormat(f"Entry name {shown(name)} is not plain; use letters, digits and single slashes.")
    if len(parts) > MAX_DEPTH or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        at_most = f"{MAX_DEPTH} levels of {MAX_NAME_BYTES} bytes"
        raise UnsafeFormat(f"Entry name {shown(name)} is too long or too deep; at most {at_most} are read.")


def _make_folder(path: Path, name: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _doubled(name) from None


def _write(entry: _Entry, stream: IO[bytes], folder: Path, room: _Room) -> None:
    path = folder / entry.name
    _make_folder(path.parent, entry.name)
    try:
        file = path.open("xb")
    except (FileExistsError, IsADirectoryError):
        raise _doubled(entry.name) from None
    written = 0
    with file:
        while chunk := stream.read(CHUNK_BYTES):
            written += len(chunk)
            if entry.packed_bytes is not None:  # else _Metered has counted it
                room.take(len(chunk))
                room.check_ratio(written, entry.packed_bytes, f"Entry {shown(entry.name)}")
            file.write(chunk)


def _doubled(name: str) -> UnsafeFormat:
    return UnsafeFormat(f"Entry {shown(name)} stands twice in the archive; pack every name once.")
