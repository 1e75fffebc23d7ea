"""Named places where a process can be made to die, fail, hang or write short, for the tests that try it.

`STILLHOUSE_FAILPOINT=NAME:ACTION[@N],...` arms them: at the Nth time (the first, unless told) that a process
reaches the place, the action happens. With `STILLHOUSE_FAILPOINT_ONCE=FOLDER` each happens once for all
processes that share the folder, so that a process which is started again does not die for ever.
The name `*` stands for all. Unset, a place costs a call of an empty function.

kill            SIGKILL to this process
exit            ends it with code 86, without any `finally`
error           raises FailpointReached
stall:SECONDS   hangs that long
short_write:N   from here on a file of this process holds N bytes at most: the write that gets there is short
tell            nothing but the mark in the folder
"""

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PHASES = ("validate", "fetch", "preflight", "signals", "train", "evaluate", "export", "register")
NAMES = (
    "submit.before_commit",
    "submit.after_commit",
    "submit.after_ring",
    "claim.before_commit",
    "claim.after_commit",
    "child.started",
    *(f"{phase}.{edge}" for phase in PHASES for edge in ("started", "ending")),
    "blobs.before_put",
    "blobs.after_put",
    "checkpoint.before_write",
    "checkpoint.after_write",
    "checkpoint.after_fsync",
    "checkpoint.after_rename",
    "checkpoint.after_upload",
    "checkpoint.before_commit",
    "checkpoint.after_commit",
    "succeed.before_commit",
    "succeed.after_commit",
    "renew.before",
    "reap.before_commit",
    "bury.before",
    "end.before_commit",
)
ACTIONS = ("kill", "exit", "error", "stall", "short_write", "tell")
EXITED = 86


class FailpointReached(RuntimeError):
    """What the action `error` raises."""


@dataclass(frozen=True)
class Action:
    """value: seconds of a stall, bytes of a short write. time: at which visit it happens."""

    kind: str
    value: float = 0.0
    time: int = 1


class Failpoints:
    """Those that the environment arms. Raises ValueError for what it cannot mean."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._armed = dict(map(_parse, filter(None, environment.get("STILLHOUSE_FAILPOINT", "").split(","))))
        once = environment.get("STILLHOUSE_FAILPOINT_ONCE")
        self._folder = Path(once) if once else None
        self._visits: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._armed)

    def reach(self, name: str) -> None:
        if name not in NAMES:
            raise ValueError(f"app/failpoints.py does not list {name}")
        action = self._armed.get(name) or self._armed.get("*")
        self._visits[name] += 1
        if action is not None and self._visits[name] == action.time and self._is_first(name):
            _act(name, action)

    def _is_first(self, name: str) -> bool:
        if self._folder is None:
            return True
        try:
            (self._folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _parse(text: str) -> tuple[str, Action]:
    name, _, told = text.strip().partition(":")
    action, _, time = told.partition("@")
    kind, _, value = action.partition(":")
    if (name != "*" and name not in NAMES) or kind not in ACTIONS:
        raise ValueError(f"STILLHOUSE_FAILPOINT cannot mean {text!r}: NAME:ACTION[@N] of app/failpoints.py")
    return name, Action(kind, float(value or 0), int(time or 1))


def _act(name: str, action: Action) -> None:
    if action.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.kind == "exit":
        os._exit(EXITED)
    elif action.kind == "error":
        raise FailpointReached(name)
    elif action.kind == "stall":
        time.sleep(action.value)
    elif action.kind == "short_write":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(action.value), hard))


def _unarmed(name: str) -> None:
    pass


_points = Failpoints(os.environ)
failpoint = _points.reach if _points else _unarmed
