"""What users wait for when something dies or is taken back, measured on real trainers in the production form.

A worker is killed with SIGKILL: seconds until its job trains again, in the other worker, under a lease of
10 s. A running job is cancelled: seconds until its process is gone and its row says so. A worker is told to
go with SIGTERM: seconds until it has ended, with its job queued again and nothing counted against it.
Promised for 99 of 100: under 15, 5 and 30 seconds.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select

from app.db.tables import Event, Job
from tests.chaos.client import Client
from tests.chaos.processes import Process, trainers
from tests.chaos.stack import ROOT, Stack, production
from tests.chaos.true_order import true_order

TIMES, PATIENCE_S, LOOK_S = 20, 120.0, 0.02
LEASE_S = 10.0
KILL, CANCEL, DRAIN = "kill -9 to training again", "cancel to a free device", "SIGTERM to the end"
PROMISED = {KILL: 15.0, CANCEL: 5.0, DRAIN: 30.0}
SETTINGS = {"STILLHOUSE_LEASE_S": str(LEASE_S), "STILLHOUSE_POLL_S": "2", "STILLHOUSE_CHECKPOINT_S": "1"}


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    folder = TemporaryDirectory(prefix="stillhouse-bench-", ignore_cleanup_errors=True)
    with folder as place, production(Path(place), SETTINGS, place=ROOT) as stack:
        client = Client(stack, 0, depth=0)
        client.true_order = true_order(stack, epochs=100_000)
        bench = Bench(stack, client)
        for _ in range(times):
            bench.killed()
            bench.drained()
    found = bench.seconds
    print(f"{'':28}{'n':>4}{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'promised':>10}")
    kept = True
    for what, seconds in found.items():
        p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
        kept &= p99 < PROMISED[what]
        p50 = statistics.median(seconds)
        print(f"{what:28}{len(seconds):4}{p50:8.2f}{p99:8.2f}{max(seconds):8.2f}{PROMISED[what]:10.0f}")
    return int(not kept)


class Bench:
    """One job at a time, which would train for hours."""

    def __init__(self, stack: Stack, client: Client) -> None:
        self._stack, self._client, self._number = stack, client, 0
        self.seconds: dict[str, list[float]] = {what: [] for what in PROMISED}

    def killed(self) -> None:
        """A worker that is killed; its job, once it trains again, is cancelled."""
        job_id = self._begun()
        until(lambda: self._job(job_id).checkpoint_step)
        attempt = self._job(job_id).attempt
        with self._timed(KILL):
            self._worker(job_id).kill()
            until(lambda: self._trains(job_id, attempt + 1))
        self._cancelled(job_id)

    def drained(self) -> None:
        """A worker that is told to go; its job goes on in the other one."""
        job_id = self._begun()
        worker, attempt = self._worker(job_id), self._job(job_id).attempt
        with self._timed(DRAIN):
            worker.send(signal.SIGTERM)
            worker.wait(PATIENCE_S)
        job = self._job(job_id)
        assert job.failures == 0, job.failures
        assert job.checkpoint_step > 0
        until(lambda: self._trains(job_id, attempt + 1))
        self._cancelled(job_id)

    def _cancelled(self, job_id: str) -> None:
        """Afterwards both workers are there again."""
        pid = self._pid(job_id)
        with self._timed(CANCEL):
            self._client.cancel("true", job_id)
            until(lambda: self._job(job_id).status == "cancelled" and not Path(f"/proc/{pid}").exists())
        for worker in self._stack.supervisors:
            if not worker.alive:
                worker.start()

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[what].append(time.monotonic() - begun)
        print(f"{what}: {self.seconds[what][-1]:.2f} s", flush=True)

    def _begun(self) -> str:
        """A job whose training has gone some steps."""
        self._number += 1
        job_id = self._client.submit(f"true-{self._number}").job_id
        assert job_id is not None
        until(lambda: self._trains(job_id, 1))
        return job_id

    def _trains(self, job_id: str, attempt: int) -> bool:
        """Whether this attempt or a later one has told of a step."""
        with self._stack.sessions.read() as session:
            told = select(Event).where(Event.job_id == job_id).order_by(Event.seq)
            reached = 0
            for event in session.scalars(told):
                reached = event.data["attempt"] if event.type == "attempt.started" else reached
                if reached >= attempt and event.type == "phase.progress" and event.phase == "train":
                    return True
        return False

    def _job(self, job_id: str) -> Job:
        with self._stack.sessions.read() as session:
            return session.get_one(Job, job_id)

    def _worker(self, job_id: str) -> Process:
        return next(
            worker
            for worker in self._stack.supervisors
            if any(job == job_id for job, _ in trainers([worker]).values())
        )

    def _pid(self, job_id: str) -> int:
        found = trainers(self._stack.supervisors)
        return next(pid for pid, (job, _) in found.items() if job == job_id)


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(LOOK_S)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
