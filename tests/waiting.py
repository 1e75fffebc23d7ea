"""What happens in other processes, waited for without a fixed time."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 60.0


def until(what: Callable[[], object]) -> None:
    """Looks again and again until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > deadline:
            pytest.fail("it did not happen in time")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while its file was read
        return False
