"""Where an attempt at an import keeps what has come. It holds its folder alone, so that one that has lost its
import and does not know it yet writes into nobody else's files.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.services import scratch

_LOCK = "lock"


@contextmanager
def held(imports: Path, import_id: str, attempt: int) -> Iterator[Path]:
    """This attempt's folder: one that an earlier attempt has let go of, with what is in it, or a new one.

    Raises OSError where it cannot be had now.
    """
    folder = imports / f"{import_id}-{attempt}"
    lock = _adopted(imports, import_id, folder)
    if lock is None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _taken(folder)
    if lock is None:  # who clears up after another attempt looks at it just now
        raise BlockingIOError(errno.EAGAIN, "the folder is not free")
    try:
        yield folder
    finally:
        os.close(lock)


def clear(imports: Path, import_id: str) -> None:
    """Removes what nobody holds of an import that has ended."""
    for folder in imports.glob(f"{import_id}-*"):
        if (lock := _taken(folder)) is not None:
            scratch.remove(folder)
            os.close(lock)


def _adopted(imports: Path, import_id: str, folder: Path) -> int | None:
    for older in sorted(imports.glob(f"{import_id}-*"), reverse=True):
        if (lock := _taken(older)) is not None:
            with suppress(OSError):  # it was cleared meanwhile
                older.rename(folder)
                return lock
            os.close(lock)
    return None


def _taken(folder: Path) -> int | None:
    """The lock, as a descriptor that holds it until it is closed, as it is when its process dies."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
