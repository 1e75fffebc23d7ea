"""`python -m worker JOB ATTEMPT`: one attempt at one job, in a process of its own; also the debugging tool.

Its standard input is a pipe from the supervisor. When it closes, the supervisor is gone and this process ends
at once; the word `finish` on it means: stop training, keep what there is; `leave`: save a checkpoint and go.
By hand, `sleep inf | python -m worker ...` stands in for the supervisor.
"""

import argparse
import errno
import os
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

import structlog

from app import traces
from app.db.session import OUTAGES
from app.errors import JobFailure, LeaseLost, OutOfMemory, StillhouseError, Unavailable, is_full
from app.exit_codes import AWAY, CRASHED, LEASE_LOST, LEFT, NO_ROOM, ORPHANED
from app.failpoints import failpoint
from app.logs import configure_logs
from app.ports.parts import Parts
from app.services import jobs
from app.settings import Settings
from app.wiring import assemble
from worker.ends import Left, PeerLost

if TYPE_CHECKING:
    from worker.engine.ranks import Meeting

PATIENCE_S = 120.0  # with a database that is away; who has no lease by then is ended from outside

log = structlog.get_logger()


class Stop:
    """What is wanted of a running attempt, told by the supervisor.

    finish: stop training, keep what there is. leave: save a checkpoint and go, to be taken up again later.
    """

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.leave = threading.Event()

    def listen(self) -> None:
        """Reads the pipe until it closes, and then ends this process and its children."""
        for word in sys.stdin:
            if word.strip() == "finish":
                self.finish.set()
            elif word.strip() == "leave":
                self.leave.set()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(ORPHANED)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker", description="Carries out one attempt at one job."
    )
    parser.add_argument("job", help="a job's id; its row must be running")
    parser.add_argument("attempt", type=int, help="the attempt that owns it")
    arguments = parser.parse_args()
    return begin(arguments.job, arguments.attempt)


def begin(job_id: str, attempt: int, meeting: "Meeting | None" = None) -> int:
    """The exit code. meeting: where other ranks are met that train the same student."""
    stop = Stop()
    threading.Thread(target=stop.listen, name="supervisor's pipe", daemon=True).start()
    settings = Settings()
    confine(settings)
    configure_logs(settings)
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=attempt)
    traces.start("stillhouse-job")
    failpoint("child.started")
    parts = assemble(settings)
    parts.sessions.patience_s = PATIENCE_S
    try:
        with traces.within_parent():
            return _attempt(parts, job_id, attempt, stop, meeting)
    finally:
        parts.close()
        traces.stop()


def confine(settings: Settings) -> None:
    """What this process may take: memory that it can write to, for GPU drivers reserve addresses at will."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold somebody's data
    if settings.max_trainer_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.max_trainer_bytes, settings.max_trainer_bytes))


def _attempt(parts: Parts, job_id: str, attempt: int, stop: Stop, meeting: "Meeting | None" = None) -> int:
    """Runs it, and writes the verdict when it fails: app/exit_codes.py has the codes.

    What the job is not to blame for is no verdict: a later attempt goes on.
    """
    try:
        return _run(parts, job_id, attempt, stop, meeting)
    except Exception as error:
        code = excuse(error)
        if code is not None:
            log.warning("the attempt ends without a verdict", why=type(error).__name__, code=code)
            return code
        log.exception("the attempt failed")
        failure = _failure(error)
    traces.flush()
    try:
        with parts.sessions.write() as session:
            jobs.fail(session, job_id, attempt, _verdict(parts, job_id, attempt, failure))
    except (LeaseLost, *OUTAGES) as error:
        return LEASE_LOST if isinstance(error, LeaseLost) else AWAY
    return 0


def _run(parts: Parts, job_id: str, attempt: int, stop: Stop, meeting: "Meeting | None") -> int:
    from worker.run import run  # torch and transformers: after the pipe is listened to

    with parts.sessions.read() as session:
        job = jobs.owned(session, job_id, attempt)
    try:
        run(job, attempt, parts, stop, meeting)
    except Left:
        return LEFT
    return 0


def excuse(error: Exception) -> int | None:
    """The exit code for what went wrong around the job; None: the job itself has failed."""
    if isinstance(error, PeerLost):
        return CRASHED
    if isinstance(error, LeaseLost):
        return LEASE_LOST
    if isinstance(error, (Unavailable, *OUTAGES)):
        return AWAY
    if is_full(error) or (isinstance(error, OSError) and error.errno == errno.EFBIG):
        return NO_ROOM
    return None


def _failure(error: Exception) -> StillhouseError:
    """An error for the user; what it was exactly is in the worker's log only."""
    from worker.engine.device import out_of_memory

    if isinstance(error, StillhouseError):
        return error
    if out_of_memory(error):
        return OutOfMemory("The device ran out of memory: order a smaller batch_size or student.")
    return JobFailure("Something broke in the worker. Its log has the details, under this job's id.")


def _verdict(parts: Parts, job_id: str, attempt: int, failure: StillhouseError) -> dict[str, object]:
    with parts.sessions.read() as session:
        phases = jobs.owned(session, job_id, attempt).phases
    running = next((phase["name"] for phase in phases if phase["status"] == "running"), None)
    blame = "platform" if failure.status >= 500 else "user"
    if isinstance(failure, JobFailure):
        blame = failure.blame
    return {**failure.body(), "phase": running, "blame": blame, "attempt": attempt}


def leave(code: int) -> NoReturn:
    """All is closed: the interpreter would take seconds to take torch apart, and break at the pipe that a
    thread of it still reads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
