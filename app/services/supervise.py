"""A job is a process: claim it, start `python -m worker`, keep its lease, carry its orders, bury it.

The same `work` runs in a local thread and in a Celery task. The trainer is a fresh process in a group of its
own, which ends when the pipe from here closes; its exit code is the witness of a crash. No torch in here.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError

from app.db.tables import Job
from app.errors import DeadlineExceeded, LeaseLost
from app.failpoints import failpoint
from app.ports.parts import Parts
from app.services import claims, jobs, scratch, sweep_steps
from app.services.layers import OFFLINE, Surveyor

PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin make training seven times slower on busy cores
FENCE = 0.9  # share of the lease after which a supervisor that could not renew kills its own child
FENCE_TICK_S = 0.1
TICK_S = 1.0  # longest time between two renewals, so that a cancellation is carried out soon
RELEASE_S = 5.0  # how long a killed process may take to be gone

log = structlog.get_logger()


def work(parts: Parts, stopping: threading.Event) -> None:
    """Carries out eligible jobs, one after the other, until there is none or this worker stops.

    A sweep whose trial has just ended has its next one ready before this looks again.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    while not stopping.is_set():
        with parts.sessions.write() as session:
            job = claims.claim(session, owner, parts.settings.accelerators, parts.settings.lease_s)
        if job is None:
            return
        failpoint("claim.after_commit")
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            log.info("attempt started")
            _Attempt(parts, job.id, job.attempt).run(stopping)
        sweep_steps.advance(parts)


def look_around(parts: Parts) -> None:
    """Takes back jobs whose worker fell silent, and rings when something is eligible."""
    settings = parts.settings
    with parts.sessions.read() as session:
        silent = session.scalar(select(exists().where(*jobs.silent())))
    if silent:
        with parts.sessions.write() as session:
            for job_id in jobs.reap(session, settings.max_no_progress):
                log.warning("lease was over", job_id=job_id)
            failpoint("reap.before_commit")
    with parts.sessions.read() as session:
        waiting = session.scalar(select(Job.id).where(*claims.eligible(settings.accelerators)).limit(1))
    if waiting is not None:
        parts.queue.ring(waiting)


class Lookout(threading.Thread):
    """Looks around every `poll_s`, in every process: no leader is needed, and a lost bell costs seconds.
    Sweeps take their steps here.

    Before that, once, it sweeps what processes that were killed left in the scratch folder.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(name="lookout", daemon=True)
        self._parts = parts
        self._stopping = threading.Event()

    def run(self) -> None:
        self._do(scratch.sweep)
        while not self._stopping.wait(self._parts.settings.poll_s):
            self._do(sweep_steps.advance)
            self._do(look_around)

    def _do(self, what: Callable[[Parts], None]) -> None:
        try:
            what(self._parts)
        except Exception:
            log.exception("the lookout stumbled")

    def stop(self) -> None:
        self._stopping.set()


class Supervisor:
    """The embedded default: a thread a slot, which waits for the bell."""

    def __init__(self, parts: Parts, bell: threading.Event) -> None:
        self._parts = parts
        self._bell = bell
        self._stopping = threading.Event()
        self._slots = [
            threading.Thread(target=self._serve, name=f"slot-{slot}", daemon=True)
            for slot in range(parts.settings.slots)
        ]
        self._surveyor = Surveyor(parts)

    def start(self) -> None:
        self._bell.set()  # there may be work from before
        self._surveyor.start()
        for slot in self._slots:
            slot.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Claims nothing more, hands running jobs back and waits for their processes to be gone."""
        self._stopping.set()
        self._surveyor.stop()
        self._bell.set()
        deadline = time.monotonic() + timeout_s
        for slot in self._slots:
            slot.join(max(deadline - time.monotonic(), 0.0))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._bell.wait()
            self._bell.clear()
            try:
                work(self._parts, self._stopping)
            except Exception:
                log.exception("a slot stumbled")
        self._bell.set()  # wakes the next slot, so that it stops too


class _Attempt:
    """One attempt at one job: its process, and the lease that is kept for it."""

    def __init__(self, parts: Parts, job_id: str, attempt: int) -> None:
        self._parts = parts
        self._job_id, self._attempt = job_id, attempt
        self._lease_s = parts.settings.lease_s
        self._renewed = time.monotonic()
        self._told_to_finish = False

    def run(self, stopping: threading.Event) -> None:
        """Until the process has ended, one way or another, and the row says so."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker", self._job_id, str(self._attempt)],
            stdin=subprocess.PIPE,
            env=PATIENT | os.environ | OFFLINE | self._parts.settings.environment(),
            start_new_session=True,
        )
        fence = threading.Thread(target=self._fence, name="fence", daemon=True)
        fence.start()
        try:
            while self._process.poll() is None:
                if stopping.wait(0) or not self._keep():
                    break
                self._wait(stopping)
        finally:
            code = self._bury()
            fence.join()
        try:
            self._write_end(code, stopping.is_set())
        except LeaseLost:
            log.info("attempt is over", exit_code=code)  # it wrote its own end, or its lease was lost

    def _fence(self) -> None:
        """Kills the process when the lease was not renewed in time, even while a renewal hangs."""
        while self._process.poll() is None:
            if time.monotonic() - self._renewed > FENCE * self._lease_s:
                log.warning("the lease was not renewed in time")
                self._kill()
                return
            time.sleep(FENCE_TICK_S)

    def _wait(self, stopping: threading.Event) -> None:
        """Until the next renewal is due, the process has ended or this worker stops."""
        until = time.monotonic() + min(self._lease_s / 4, TICK_S)
        while self._process.poll() is None and not stopping.is_set() and time.monotonic() < until:
            time.sleep(0.02)

    def _keep(self) -> bool:
        """Renews the lease and passes on what the user wants; False: the process must not go on."""
        failpoint("renew.before")
        asked = time.monotonic()
        try:
            with self._parts.sessions.write() as session:
                orders = jobs.renew(session, self._job_id, self._attempt, self._lease_s)
        except LeaseLost:
            return False
        except SQLAlchemyError:
            log.warning("the lease could not be renewed", exc_info=True)
            return True  # until the fence
        self._renewed = asked
        if orders.overdue:
            with suppress(LeaseLost):  # it has just ended by itself
                self._fail_overdue()
        elif orders.desired == "finish" and not self._told_to_finish:
            self._told_to_finish = True
            self._tell("finish")
        return not orders.overdue and orders.desired != "cancel"

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended; its exit code will say how
            self._process.stdin.write(word.encode() + b"\n")
            self._process.stdin.flush()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _bury(self) -> int:
        """Kills what is left of the process group and removes what it left behind; the exit code."""
        failpoint("bury.before")
        self._kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(RELEASE_S)
        scratch.remove(scratch.attempt_folder(self._parts.settings, self._job_id, self._attempt))
        return code

    def _write_end(self, code: int, stopping: bool) -> None:
        """The end of an attempt whose process wrote none of its own. Raises LeaseLost when it did."""
        with self._parts.sessions.write() as session:
            job = jobs.owned(session, self._job_id, self._attempt)
            if job.desired == "cancel":
                jobs.cancelled(session, self._job_id, self._attempt)
            elif stopping:
                jobs.yield_(session, self._job_id, self._attempt)
            else:
                why = (
                    f"its process was ended by {signal.Signals(-code).name}"
                    if code < 0
                    else f"its process ended with code {code}"
                )
                jobs.crash(session, self._job_id, self._attempt, why, self._parts.settings.max_no_progress)
            failpoint("end.before_commit")
        log.warning("attempt ended without a verdict", exit_code=code, stopping=stopping)

    def _fail_overdue(self) -> None:
        error = DeadlineExceeded(
            "The job reached resources.max_runtime_s: allow it more time, or fewer epochs."
        )
        body = {**error.body(), "phase": None, "blame": error.blame, "attempt": self._attempt}
        with self._parts.sessions.write() as session:
            jobs.fail(session, self._job_id, self._attempt, body)
