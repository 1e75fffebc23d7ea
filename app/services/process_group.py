"""A process and all that it has started, which stand in a group of their own: they are killed together, and
are gone when the last of them is."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOOK_S = 0.02


def kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def is_gone(leader: "subprocess.Popen[Any]", patience_s: float) -> bool:
    """Whether nothing of the group works any more, by then at the latest."""
    until = time.monotonic() + patience_s
    with suppress(subprocess.TimeoutExpired):
        leader.wait(patience_s)
    while leader.poll() is None or _works(leader.pid):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_S)
    return True


def _works(group: int) -> bool:
    """Not so what has ended already, though nobody has asked yet how: it holds nothing but its number."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_stands_in(group, stat) for stat in Path("/proc").glob("[0-9]*/stat"))


def _stands_in(group: int, stat: Path) -> bool:
    try:
        state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # it went while it was looked at
        return False
    return state not in "ZX" and int(its_group) == group
