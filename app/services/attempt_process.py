"""One attempt: its process, the lease that is kept for it, the orders that it gets, and how its end is told.

The process stands in a group of its own and ends when the pipe from here closes; its exit code is the witness
of what happened. While the database is away the process goes on until the lease must be over: whoever could
not renew it in time kills the process, for another worker may have the job by then.
"""

import signal
import subprocess
import threading
import time
from contextlib import suppress

import structlog

from app.db.session import OUTAGES
from app.errors import DeadlineExceeded, LeaseLost, Unavailable
from app.exit_codes import AWAY, LEASE_LOST, LEFT, NO_ROOM, NOT_BEGUN
from app.failpoints import failpoint
from app.ports.parts import Parts
from app.services import attempt_logs, jobs, process_group, scratch, trainer
from app.services.attempt_output import Output
from app.services.leases import LEAVING
from app.services.workplace import PLAIN, Places

FENCE = 0.9  # share of the lease after which a supervisor that could not renew kills its own child
FENCE_TICK_S = 0.1
TICK_S = 1.0  # longest time between two renewals, so that a cancellation is carried out soon
LEAVE_S = 20.0  # for a process that was asked to leave to save a checkpoint and go
RELEASE_S = (
    5.0  # how long a killed process may take to be gone before it is told, and what it said to be stored
)
RETRY_S = 0.5  # between two tries to write an end while the database is away
GIVE_UP_S = 3.0  # of such tries by a worker that is going away; then the lease runs out
PAUSED = "paused by its user"
OUT_OF_GPU = "its project's GPU seconds of this month are used up"
OUT_OF_GPU_TOLD = (
    "The project's quota max_gpu_s is used up: the job saves a checkpoint and waits in the queue until the "
    "next month begins (UTC) or the operator allows more."
)
LACKED = {  # by how it ended: what an attempt lacked, which is not the job's fault
    AWAY: "the database or the object store did not answer",
    NO_ROOM: "its worker's disk is full",
    NOT_BEGUN: "its worker could start no process",
    LEASE_LOST: "its process took the job for another attempt's",
}

log = structlog.get_logger()


class Attempt:
    """At one job, which this worker has claimed."""

    def __init__(self, parts: Parts, job_id: str, attempt: int, places: Places = PLAIN) -> None:
        self._parts, self._places = parts, places
        self._job_id, self._attempt = job_id, attempt
        self._lease_s = parts.settings.lease_s
        self._renewed = time.monotonic()
        self._told: set[str] = set()
        self._leaves_by: float | None = None  # monotonic; None: it was not asked to leave
        self._leaves_because: str | None = None
        self._fenced = False

    def run(self, stopping: threading.Event) -> None:
        """Until the process has ended, one way or another, and the row says so."""
        try:
            self._process = subprocess.Popen(
                trainer.command(self._job_id, self._attempt, self._places),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=trainer.environment(self._parts.settings, self._places),
                start_new_session=True,
            )
        except OSError:  # of processes, memory or files there are no more
            log.exception("the attempt's process could not be started")
            self._tell_end(NOT_BEGUN, stopping)
            return
        assert self._process.stdout is not None
        output = Output(self._process.stdout)
        fence = threading.Thread(target=self._fence, name="fence", daemon=True)
        output.start()
        fence.start()
        try:
            while self._process.poll() is None:
                if stopping.is_set():
                    self._ask_to_leave(LEAVING)
                if self._has_overstayed() or not self._keep():
                    break
                self._wait(stopping)
        finally:
            code = self._bury(stopping)
            fence.join(RELEASE_S)
        self._tell_end(code, stopping)
        output.join(RELEASE_S)
        keeper = threading.Thread(target=self._keep_log, args=[output.text()], name="log", daemon=True)
        keeper.start()
        keeper.join(RELEASE_S)

    # ---- while it runs

    def _fence(self) -> None:
        """Kills the process when the lease was not renewed in time, even while a renewal hangs."""
        while self._process.poll() is None:
            if time.monotonic() - self._renewed > FENCE * self._lease_s:
                log.warning("the lease was not renewed in time")
                self._fenced = True
                process_group.kill(self._process.pid)
                return
            time.sleep(FENCE_TICK_S)

    def _wait(self, stopping: threading.Event) -> None:
        """Until the next renewal is due, the process has ended, or this worker stops and has not said so."""
        until = time.monotonic() + min(self._lease_s / 4, TICK_S)
        while self._process.poll() is None and time.monotonic() < until:
            if stopping.is_set() and self._leaves_by is None:
                return
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
        except OUTAGES:
            log.warning("the lease could not be renewed", exc_info=True)
            return True  # until the fence
        self._renewed = asked
        if orders.overdue:
            return not self._fail_overdue()
        if orders.desired == "finish":
            self._tell("finish")
        elif orders.desired == "pause":
            self._ask_to_leave(PAUSED)
        elif orders.desired == "run" and orders.out_of_gpu:
            self._leave_to_wait()
        return orders.desired != "cancel"

    def _ask_to_leave(self, why: str) -> None:
        if self._leaves_by is None:
            self._leaves_by, self._leaves_because = time.monotonic() + LEAVE_S, why
            self._tell("leave")

    def _leave_to_wait(self) -> None:
        """For its project may take no GPU any more; what has been learned is kept."""
        if self._leaves_by is not None:
            return
        about = {"kind": "quota", "quota": "max_gpu_s"}
        with suppress(LeaseLost, *OUTAGES), self._parts.sessions.write() as session:
            jobs.note(session, self._job_id, self._attempt, type="warning", level="warning", phase=None,
                      message=OUT_OF_GPU_TOLD, data=about)  # fmt: skip
        self._ask_to_leave(OUT_OF_GPU)

    def _has_overstayed(self) -> bool:
        return self._leaves_by is not None and time.monotonic() > self._leaves_by

    def _tell(self, word: str) -> None:
        """Once."""
        assert self._process.stdin is not None
        if word in self._told:
            return
        self._told.add(word)
        with suppress(BrokenPipeError):  # it has just ended; its exit code will say how
            self._process.stdin.write(word.encode() + b"\n")
            self._process.stdin.flush()

    def _fail_overdue(self) -> bool:
        """Whether the job has ended by that, or by itself just now; False: the database is away."""
        error = DeadlineExceeded(
            "The job reached resources.max_runtime_s: allow it more time, or fewer epochs."
        )
        body = {**error.body(), "phase": None, "blame": error.blame, "attempt": self._attempt}
        try:
            with self._parts.sessions.write() as session:
                jobs.fail(session, self._job_id, self._attempt, body)
        except LeaseLost:
            pass
        except OUTAGES:
            return False
        return True

    # ---- when it has ended

    def _bury(self, stopping: threading.Event) -> int:
        """Kills what is left of the process group and removes what it left behind; the exit code.

        A process may hold a device until it is gone, and its slot is not free before, however long it takes;
        a worker that stops frees none.
        """
        failpoint("bury.before")
        process_group.kill(self._process.pid)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        while not process_group.is_gone(self._process, RELEASE_S):
            log.warning("what was killed is not gone yet", pid=self._process.pid)
            if stopping.is_set():
                break
            process_group.kill(self._process.pid)
        code = self._process.poll()
        scratch.remove(scratch.attempt_folder(self._parts.settings, self._job_id, self._attempt))
        return -signal.SIGKILL if code is None else code

    def _tell_end(self, code: int, stopping: threading.Event) -> None:
        """Tries for as long as the database is away; a worker that stops leaves it to the lease."""
        stopped = None
        while True:
            try:
                self._write_end(code)
                return
            except LeaseLost:  # it wrote its own end, or the lease was lost
                log.info("attempt is over", exit_code=code)
                return
            except OUTAGES:
                log.warning("the attempt's end could not be written", exit_code=code, exc_info=True)
            if stopping.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped > GIVE_UP_S:
                    return
            time.sleep(RETRY_S)

    def _write_end(self, code: int) -> None:
        """Of an attempt whose process wrote none. Raises LeaseLost when it did."""
        mine = self._job_id, self._attempt
        with self._parts.sessions.write() as session:
            desired = jobs.owned(session, *mine).desired
            left, lacked = self._why_it_left(desired, code), LACKED.get(code)
            if desired == "cancel":
                jobs.cancelled(session, *mine)
            elif left:
                jobs.yield_(session, *mine, why=left)
            elif lacked:
                jobs.put_off(session, *mine, lacked)
            else:
                jobs.crash(session, *mine, _why(code), self._parts.settings.max_no_progress)
            failpoint("end.before_commit")
        if desired == "cancel" or left or lacked:
            log.info("attempt is over", exit_code=code, why=left or lacked or "cancelled by its user")
        else:
            log.warning("attempt ended without a verdict", exit_code=code)

    def _why_it_left(self, desired: str, code: int) -> str | None:
        """None: nobody had asked it to."""
        if desired == "pause":
            return PAUSED
        if self._leaves_because == PAUSED:
            return "paused by its user, and resumed before it had left"
        if self._leaves_because or code == LEFT:
            return self._leaves_because or LEAVING
        return "the database was away for too long" if self._fenced else None

    def _keep_log(self, text: bytes) -> None:
        """Without it the job is none the worse."""
        try:
            blob = self._parts.blobs.put([text])
            with self._parts.sessions.write() as session:
                attempt_logs.add(session, self._job_id, self._attempt, sha256=blob.sha256, size=blob.size)
        except (*OUTAGES, Unavailable, OSError):
            log.warning("what the attempt said could not be stored", exc_info=True)


def _why(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"
