"""A job is a process: claim it, start `python -m worker`, keep its lease, carry its orders, bury it.

The same `work` runs in the slots' own threads and in Celery tasks; services.attempt_process has the process.
No torch in here.
"""

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import exists, select

from app import traces
from app.catalog.spec import MOST_DEVICES
from app.db.tables import Job
from app.failpoints import failpoint
from app.ports.parts import Parts
from app.ports.queue import LocalQueue, Queue
from app.services import claims, jobs, leases, scratch, sweep_steps, workers
from app.services.attempt_process import Attempt
from app.services.claims import Room
from app.services.layers import Surveyor
from app.services.porter import Porters
from app.services.stumbling import survived
from app.services.workplace import Workplace

PARTING_S = 24.0  # from the order to leave, for jobs and imports to be handed back
TICK_S = 0.05
FULL_S = 0.5  # between two looks of whom all slots are taken from
EVERYWHERE = Room.of(("cpu", "cuda"), MOST_DEVICES)
SOON_S = 0.05  # between two looks at a lease that is about to end
BEATS = 4  # signs of life in the time after which their absence means that a worker is lost

log = structlog.get_logger()


def work(parts: Parts, place: Workplace, bell: Queue, stopping: threading.Event) -> None:
    """Carries out eligible jobs, one after the other, until there is none or this worker stops.

    bell: wakes the slots that are left.

    A sweep whose trial has just ended has its next one ready before this looks again.
    """
    while not stopping.is_set():
        looked_ns = time.time_ns()
        with place.held():
            job = _claim(parts, place)
            places = None if job is None else place.take(job)
        if job is None or places is None:
            return
        with traces.span("claim", job.traceparent, looked_ns):
            pass  # it is over, and only now it is known whose it was
        try:
            failpoint("claim.after_commit")
            if place.room().any_free:
                bell.ring(job.id)  # there may be more
            with (
                structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt),
                traces.span("attempt", job.traceparent, job_id=job.id, attempt=job.attempt),
            ):
                log.info("attempt started")
                Attempt(parts, job.id, job.attempt, places).run(stopping)
        finally:
            place.give(places)
        sweep_steps.advance(parts)


def _claim(parts: Parts, place: Workplace) -> Job | None:
    room = place.room()
    if not room.any_free:
        return None
    owner = f"{place.id}/{threading.get_ident()}"
    with parts.sessions.write() as session:
        return claims.claim(session, owner, place.accelerators, parts.settings.lease_s, room)


def look_around(parts: Parts, place: Workplace | None, bell: Queue) -> None:
    """Takes back jobs whose worker fell silent, and rings when something could be claimed.

    place: None in a process without slots, which rings for everybody.
    """
    settings = parts.settings
    with parts.sessions.read() as session:
        silent = session.scalar(select(exists().where(*jobs.silent())))
    if silent:
        with parts.sessions.write() as session:
            for job_id in jobs.reap(session, settings.max_no_progress):
                log.warning("lease was over", job_id=job_id)
            failpoint("reap.before_commit")
    with parts.sessions.read() as session:
        wanted = claims.wanted(session, EVERYWHERE if place is None else place.room())
    for accelerator in wanted:
        bell.ring("", accelerator)


class Lookout(threading.Thread):
    """Looks around every `poll_s`, in every process: no leader is needed, and a lost bell costs seconds.
    Sweeps take their steps here, and a process with slots says that it is there.

    bell: of this process's own slots, which thus begin also while the broker is away; None: it has none, and
    rings for all workers.

    Before that, once, it sweeps what processes that were killed left in the scratch folder.
    """

    def __init__(self, parts: Parts, place: Workplace | None = None, bell: LocalQueue | None = None) -> None:
        super().__init__(name="lookout", daemon=True)
        self._parts, self._place = parts, place
        self._bell: Queue = bell or parts.queue
        self._stopping = threading.Event()
        self._next_beat = 0.0
        self._rest_s = self._longest_s = min(parts.settings.poll_s, parts.settings.lease_s / BEATS)
        self._last_beat = time.monotonic()

    def run(self) -> None:
        self._do(self._beat)
        self._do(scratch.sweep)
        while not self._stopping.wait(self._rest_s):
            self._do(self._beat)
            self._do(sweep_steps.advance)
            self._do(self._look)
        self._do(self._leave)

    def _look(self, parts: Parts) -> None:
        """Next time when a lease may be over, so that a lost worker costs its lease and no more."""
        self._rest_s = self._longest_s
        look_around(parts, self._place, self._bell)
        with parts.sessions.read() as session:
            end_s = leases.next_end_s(session)
        if end_s is not None:
            self._rest_s = min(max(end_s, SOON_S), self._rest_s)

    def _beat(self, parts: Parts) -> None:
        if self._place is None or time.monotonic() < self._next_beat:
            return
        with parts.sessions.write() as session:
            workers.beat(session, self._place, parts.settings.lease_s)
        self._last_beat = time.monotonic()
        self._next_beat = self._last_beat + parts.settings.lease_s / BEATS

    def silent_s(self) -> float:
        """How long ago it was said that this worker is there."""
        return time.monotonic() - self._last_beat

    def _leave(self, parts: Parts) -> None:
        if self._place is not None:
            with parts.sessions.write() as session:
                workers.leave(session, self._place)

    def _do(self, what: Callable[[Parts], None]) -> None:
        with survived("lookout"):
            what(self._parts)

    def stop(self) -> None:
        self._stopping.set()


class Supervisor:
    """A process with slots: a thread for each, which waits for the bell of this process."""

    def __init__(self, parts: Parts, place: Workplace, bell: LocalQueue) -> None:
        self._parts, self._place, self._bell = parts, place, bell
        self._stopping = threading.Event()
        self._leaves_by = 0.0
        self._slots = [
            threading.Thread(target=self._serve, name=f"slot-{slot}", daemon=True)
            for slot in range(place.slots)
        ]
        self._surveyor = Surveyor(parts)
        self._porters = Porters(parts)

    def start(self) -> None:
        self._bell.ring("")  # there may be work from before
        self._surveyor.start()
        self._porters.start()
        for slot in self._slots:
            slot.start()

    def leave(self) -> None:
        """Claims nothing more, and asks running jobs to save a checkpoint and go."""
        if self._stopping.is_set():
            return
        self._leaves_by = time.monotonic() + PARTING_S
        self._stopping.set()
        self._surveyor.stop()
        self._porters.stop()
        self._bell.ring("")

    def stop(self) -> None:
        """Leaves, and waits until the jobs and the imports are handed back."""
        self.leave()
        for thread in (*self._slots, self._surveyor):
            thread.join(self._left_s())
        while self._place.taken() and self._left_s():  # by a thread that somebody else has lent
            time.sleep(TICK_S)
        self._porters.end(self._left_s())

    def work_when_free(self) -> None:
        """In this thread, once a slot is free; the next ring is meanwhile for another worker."""
        while not self._place.room().any_free and not self._stopping.wait(FULL_S):
            pass
        self._work()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._bell.bell.wait()
            self._bell.bell.clear()
            self._work()
        self._bell.ring("")  # wakes the next slot, so that it stops too

    def _work(self) -> None:
        with survived("slot"):
            work(self._parts, self._place, self._bell, self._stopping)

    def _left_s(self) -> float:
        return max(self._leaves_by - time.monotonic(), 0.0)
