"""`python -m worker JOB ATTEMPT`: one attempt at one job, in a process of its own; also the debugging tool.

Its standard input is a pipe from the supervisor. When it closes, the supervisor is gone and this process ends
at once; the word `finish` on it means: stop training, keep what there is. By hand, `sleep inf | python -m
worker ...` stands in for the supervisor.
"""

import argparse
import os
import resource
import signal
import sys
import threading

import structlog

from app.errors import JobFailure, LeaseLost, OutOfMemory, StillhouseError
from app.failpoints import failpoint
from app.logs import configure_logs
from app.ports.parts import Parts
from app.services import jobs
from app.settings import Settings
from app.wiring import assemble

ORPHANED = 70
LEASE_LOST = 75

log = structlog.get_logger()


class Stop:
    """What the user wants of a running attempt, told by the supervisor."""

    def __init__(self) -> None:
        self.finish = threading.Event()

    def listen(self) -> None:
        """Reads the pipe until it closes, and then ends this process and its children."""
        for word in sys.stdin:
            if word.strip() == "finish":
                self.finish.set()
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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold somebody's data
    stop = Stop()
    threading.Thread(target=stop.listen, name="supervisor's pipe", daemon=True).start()
    settings = Settings()
    configure_logs(settings)
    structlog.contextvars.bind_contextvars(job_id=arguments.job, attempt=arguments.attempt)
    failpoint("child.started")
    parts = assemble(settings)
    try:
        return _attempt(parts, arguments.job, arguments.attempt, stop)
    finally:
        parts.close()


def _attempt(parts: Parts, job_id: str, attempt: int, stop: Stop) -> int:
    """Runs it, and writes the verdict when it fails. The exit code says nothing more than the row."""
    try:
        from worker.run import run  # torch and transformers: after the pipe is listened to

        with parts.sessions.read() as session:
            job = jobs.owned(session, job_id, attempt)
        run(job, attempt, parts, stop)
        return 0
    except LeaseLost:
        log.warning("another attempt owns this job")
        return LEASE_LOST
    except Exception as error:
        log.exception("the attempt failed")
        failure = _failure(error)
    try:
        with parts.sessions.write() as session:
            jobs.fail(session, job_id, attempt, _verdict(parts, job_id, attempt, failure))
    except LeaseLost:
        return LEASE_LOST
    return 0


def _failure(error: Exception) -> StillhouseError:
    """An error for the user; what it was exactly is in the worker's log only."""
    import torch

    if isinstance(error, StillhouseError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
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


if __name__ == "__main__":
    sys.exit(main())
