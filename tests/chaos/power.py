"""A power cut, as files see it: what was not synced is lost, be it a file's bytes or its name in a folder.

`CHAOS_LEDGER=FILE` in the environment of a server and its trainers makes them write down what they sync. A
kill alone would show nothing, for what is written lives on in the kernel.
"""

import os
import shutil
import stat
from pathlib import Path


def keep_ledger(path: str) -> None:
    """os.fsync of this process tells what it has made safe: a file's length, a folder's names."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(descriptor) as entries:
                lines = [f"{found.st_ino} {entry.name} {entry.inode()}\n" for entry in entries]
        else:
            lines = [f"{found.st_ino} {found.st_size}\n"]
        ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(ledger, "".join(lines).encode())
        os.close(ledger)

    vars(os)["fsync"] = fsync


def cut(ledger: Path, made: set[Path]) -> None:
    """Takes from what was made since the ledger began, and whose writers are dead, what nobody has synced."""
    safe = set(ledger.read_text().splitlines()) if ledger.exists() else set()
    for path in sorted(made, reverse=True):  # what a folder holds goes before it
        found = path.stat()
        if f"{path.parent.stat().st_ino} {path.name} {found.st_ino}" not in safe:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.is_file() and f"{found.st_ino} {found.st_size}" not in safe:
            os.truncate(path, 0)
