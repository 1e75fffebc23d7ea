"""Files from outside are opened in a child process with limits, never in this one.

The child gets no secret (its environment is its own), lives in a process group of its own and is killed when
its time is up. What it answers is believed only after parsing; the files that it wrote are found by names
that the caller chooses.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import Fault, Invalid, InvalidData
from app.exit_codes import NO_ROOM
from app.settings import MIB, Settings

ROOT = Path(__file__).parents[2]  # where `app` is imported from
MAX_ANSWER_BYTES = 64 * MIB
log = structlog.get_logger()


class _Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: str
    detail: str
    faults: list[Fault]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    result: dict[str, Any] | None = None
    refusal: _Refusal | None = None


def run(
    settings: Settings, kind: str, source_files: Sequence[Path], options: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Runs `take(options, source, out)` of app/intake/<kind>.py in a limited child and returns its result.

    options: JSON; `limits` is added. out: a folder for what the child makes. Blocks for up to `max_intake_s`.
    Raises what `take` raised of the tree of Invalid, InvalidData when the child died or passed a limit, and
    OSError when its disk was full.
    """
    out = out.resolve()
    order = {
        "options": {**options, "limits": _limits(settings)},
        "source": [str(path.resolve()) for path in source_files],
        "out": str(out),
        "memory_bytes": settings.max_intake_bytes,
        "file_bytes": 2 * settings.max_upload_bytes,
        "cpu_s": int(settings.max_intake_s) + 1,
    }
    with (
        tempfile.TemporaryDirectory(prefix="intake-", dir=out) as scratch,
        (Path(scratch) / "stderr").open("w+b") as stderr,
    ):
        answer_path = Path(scratch) / "answer.json"
        status = _run_child(
            kind, {**order, "answer": str(answer_path)}, stderr.fileno(), settings.max_intake_s
        )
        answer = _read_answer(answer_path)
        if answer is None and status == NO_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if answer is None:
            stderr.seek(0)
            where = stderr.read(4000).decode(errors="replace")
            log.warning("intake.died", kind=kind, status=status, where=where)
            raise _pointed(InvalidData, _why(status, settings))
    if answer.refusal:
        error, detail = _errors()[answer.refusal.code], answer.refusal.detail
        raise error(detail, *answer.refusal.faults) if answer.refusal.faults else _pointed(error, detail)
    return answer.result or {}


def _pointed(kind: type[Invalid], detail: str) -> Invalid:
    """The error with a fault at the file. Its way out is what stands behind the last semicolon, if any."""
    problem, semicolon, way = detail.rstrip(".").rpartition("; ")
    fix = f"{way[:1].upper()}{way[1:]}." if semicolon else "Make the file anew and upload it again."
    return kind(detail, Fault("/file", kind.code, problem or detail, fix))


def _limits(settings: Settings) -> dict[str, int]:
    """The fields of app.intake.archive.Limits."""
    return {
        "max_bytes": settings.max_upload_bytes,
        "max_entries": settings.max_archive_entries,
        "max_ratio": settings.max_archive_ratio,
        "max_pixels": settings.max_pixels,
    }


def _run_child(kind: str, order: Mapping[str, Any], stderr: int, limit_s: float) -> int | None:
    """Its exit status, negative for a signal; None: its time was up."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.intake", kind],  # -P: imports nothing from its working folder
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=order["out"],
        env=_environment(order["out"]),
        start_new_session=True,
    )
    assert child.stdin
    try:
        with suppress(BrokenPipeError):  # it is dead already; its status says why
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
        return child.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()


def _environment(folder: str) -> dict[str, str]:
    """All that the child sees. One thread and few arenas keep its address space, which is limited, small."""
    return {
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": folder,
        "TMPDIR": folder,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def _read_answer(path: Path) -> _Answer | None:
    """None: there is none that can be believed."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_ANSWER_BYTES:
        return None
    try:
        answer = _Answer.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    known = answer.refusal is None or answer.refusal.code in _errors()
    return answer if known else None


def _why(status: int | None, settings: Settings) -> str:
    if status is None or status == -signal.SIGXCPU:
        return (
            f"Reading this upload took longer than {settings.max_intake_s:g} s, the limit; send less at once."
        )
    if status in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV):
        return "Reading this upload needs more memory than it may take, or the file is damaged; check it."
    return "This upload could not be read; check that the file is whole and opens elsewhere."


def _errors() -> dict[str, type[Invalid]]:
    return {error.code: error for error in _tree(Invalid)}


def _tree(error: type[Invalid]) -> Iterator[type[Invalid]]:
    yield error
    for child in error.__subclasses__():
        yield from _tree(child)
