"""What an attempt's process says: passed on as it is to the operator, and its end kept for the job's owner.

The owner sees lines of events without stacks; paths, addresses, keys and this machine's name are left out.
"""

import json
import os
import re
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

KEPT_BYTES = 256 * 1024  # of what it said last
LINE_BYTES = 8 * 1024
SHOWN_LETTERS = 500  # of a line

_EVENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_STACK = re.compile(r'\s*(Traceback \(most recent call last\)|Fatal Python error|File "|Thread 0x|Stack )')
_RAISED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?::|$)")
_SECRET = [
    (re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]"), ""),
    (re.compile(r"\bsh_\w+"), "[key]"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://\S+"), "[address]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?"), "[address]"),
    (re.compile(r"(?<![\w:])(?=[\w:]*::)[0-9a-fA-F:]{3,}(?![\w:])"), "[address]"),
    (re.compile(r"(?<![\w.])(?:/[\w.@+=-]+){2,}/?"), "[path]"),
    (re.compile(re.escape(socket.gethostname())), "[host]"),
]
_UNTOLD = {"event", "level", "timestamp", "exception", "stack", "exc_info", "job_id", "attempt"}


class Output(threading.Thread):
    """Reads a pipe until nobody can write to it any more."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="output", daemon=True)
        self._pipe = pipe
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = False

    def run(self) -> None:
        with self._pipe:
            for line in iter(lambda: self._pipe.readline(LINE_BYTES), b""):
                with suppress(OSError):  # nobody listens to this process
                    os.write(2, line)
                self._keep(line)

    def text(self) -> bytes:
        """What the owner is shown."""
        lines = [line.decode(errors="replace") for line in list(self._lines)]
        told = ["(what it said before is not kept)"] if self._dropped else []
        return "".join(f"{line}\n" for line in [*told, *fit(lines)]).encode()

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._lines.popleft())
            self._dropped = True


def fit(lines: Iterable[str]) -> Iterator[str]:
    """Lines without what only the operator should see; of a stack the name of what was raised is left."""
    in_stack = False
    for line in lines:
        told = _event(line)
        if told is not None:
            in_stack = False
            yield _bare(told)
        elif _STACK.match(line):
            in_stack = True
        elif not in_stack:
            if line.strip():
                yield _bare(line)
        elif raised := _RAISED.match(line):
            yield _bare(raised[1].rpartition(".")[2])


def _event(line: str) -> str | None:
    """The line, if it is one of our own events, which end a stack; one in JSON is written out."""
    if _EVENT.match(line):
        return line
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or "event" not in said:
        return None
    rest = " ".join(f"{name}={value}" for name, value in said.items() if name not in _UNTOLD)
    return f"{said.get('timestamp', '')} [{said.get('level', '')}] {said['event']} {rest}"


def _bare(line: str) -> str:
    for secret, instead in _SECRET:
        line = secret.sub(instead, line)
    line = line.rstrip()
    return line if len(line) <= SHOWN_LETTERS else line[:SHOWN_LETTERS] + "..."
