"""`python -m app.intake KIND`: opens files from outside, in a process of its own that can be lost.

The order is one line of JSON on standard input, which then stays open: its end is the parent's, and ends this
process too. The work is `take(options, source, out)` in app/intake/<KIND>.py; what it returns or refuses is
written to the answer file.
"""

import importlib
import json
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from app.errors import Invalid, InvalidData, is_full
from app.exit_codes import NO_ROOM


def main(kind: str) -> None:
    order = json.loads(_line())
    _confine(order)
    sys.excepthook = _witness
    threading.Thread(target=_end_with_parent, daemon=True).start()
    assert re.fullmatch("[a-z_]+", kind)
    take = importlib.import_module(f"app.intake.{kind}").take
    source = [Path(path) for path in order["source"]]
    try:
        answer = _answer(lambda: take(order["options"], source, Path(order["out"])), order["memory_bytes"])
        Path(order["answer"]).write_text(json.dumps(answer))
    except OSError as error:
        if not is_full(error):
            raise
        sys.exit(NO_ROOM)


def _line() -> bytes:
    """The first line, and no byte more."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            sys.exit(1)
        line += piece
    return line


def _confine(order: dict[str, Any]) -> None:
    for what, limit in (
        (resource.RLIMIT_AS, order["memory_bytes"]),
        (resource.RLIMIT_FSIZE, order["file_bytes"]),
        (resource.RLIMIT_CPU, order["cpu_s"]),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(what)
        most = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(what, (most, most))
    os.nice(5)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _answer(work: Callable[[], dict[str, Any]], memory_bytes: int) -> dict[str, Any]:
    try:
        return {"result": work()}
    except Invalid as error:
        refusal = error
    except MemoryError:
        refusal = InvalidData(
            f"Reading this needs more than {memory_bytes:,} bytes of memory; send less at once."
        )
    faults = [asdict(fault) for fault in refusal.faults]
    return {"refusal": {"code": refusal.code, "detail": refusal.detail, "faults": faults}}


def _witness(kind: type[BaseException], _error: BaseException, where: TracebackType | None) -> None:
    """Tells where it broke, for the log. The error's message may hold somebody's data, so it stays unsaid."""
    sys.stderr.write(kind.__name__ + "\n" + "".join(traceback.format_tb(where)[-8:]))


if __name__ == "__main__":
    main(sys.argv[1])
