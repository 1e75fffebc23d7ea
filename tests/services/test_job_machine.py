"""The life of jobs against a model of it: any order of what users, workers, zombies and time can do.

The model says what each row must be after each step, and whether an operation must be refused. Beside it
stand the promises that hold whatever happens: ended jobs never change, attempts and steps only grow, events
have no gap, there is one success at most, and never one after a discard that was acknowledged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import case, delete, func, select, update
from sqlalchemy.orm import Session

from app.catalog.spec import Resolved
from app.db.dialect import TERMINAL, db_now
from app.db.session import Sessions
from app.db.tables import Event, Job, JobCheckpoint
from app.errors import LeaseLost, StateConflict
from app.services import checkpoints, claims, copies, jobs, submission
from app.services.phases import PHASES
from app.settings import Settings
from tests import orders

LEASE_S, LIMIT, MOST = 60.0, 3, 2
PROJECT = orders.PROJECT
NUMBERS = st.integers(0, 5)
OFTEN = ["claim", "checkpoint", "crash", "delays pass", "succeed"] * 3 + ["yield", "submit", "submit"]
DEEDS = [
    *OFTEN, "submit", "discard", "keep", "pause", "resume", "retry", "renew", "phase",
    "claim", "begin anew", "put off", "fail", "lease runs out", "reap", "resume",
]  # fmt: skip
ZOMBIES = st.sampled_from([False] * 4 + [True])


EXAMPLES = settings(
    max_examples=24,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a failure is told at once; add Phase.shrink for its shortest form
)


@dataclass
class Life:
    """What a job's row must say, and what its clock allows."""

    status: str = "queued"
    desired: str = "run"
    attempt: int = 0
    step: int = 0
    no_progress: int = 0
    phases_done: int = 0
    interruptions: int = 0
    failures: int = 0
    late: bool = False  # its lease is over
    delayed: bool = False  # nobody may take it yet
    discarded: bool = False  # the user was told so
    steps: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.status in TERMINAL

    def told(self) -> tuple[Any, ...]:
        return (
            self.status, self.desired, self.attempt, self.step, self.no_progress, self.phases_done,
            self.interruptions, self.failures,
        )  # fmt: skip

    def back(self, *, crashed: bool, lost: bool = False) -> None:
        """The attempt ends without a verdict. A worker that fell silent has been waited for already."""
        if self.desired == "cancel" or (self.desired == "finish" and not self.step):
            self.status = "cancelled"
            return
        self.no_progress += crashed
        self.failures += crashed
        self.interruptions += not crashed
        if crashed and self.no_progress >= LIMIT and self.desired != "pause":
            self.status = "failed"
        else:
            self.status = "paused" if self.desired == "pause" else "queued"
            self.delayed = crashed and not (lost and self.no_progress == 1)


class JobLife(RuleBasedStateMachine):
    sessions: ClassVar[Sessions]
    order: ClassVar[submission.Order]

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}
        self.ended: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        with self.sessions.write() as session:
            session.execute(delete(Job))

    @initialize()
    def begin(self) -> None:
        self.submit()
        self.submit()

    # One rule, for hypothesis leaves out some of several, and then most steps do nothing.
    @rule(deed=st.sampled_from(DEEDS), n=NUMBERS, zombie=ZOMBIES, number=st.integers(0, 7))
    def step(self, deed: str, n: int, zombie: bool, number: int) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "submit": self.submit,
            "claim": self.claim,
            "reap": self.reap,
            "delays pass": self.delays_pass,
            "lease runs out": lambda: self.lease_runs_out(n),
            "discard": lambda: self.cancel(n, keep=False),
            "keep": lambda: self.cancel(n, keep=True),
            "pause": lambda: self.pause(n),
            "resume": lambda: self.resume(n),
            "retry": lambda: self.retry(n),
            "renew": lambda: self.renew(n, zombie),
            "checkpoint": lambda: self.checkpoint(n, zombie, number % 3),
            "begin anew": lambda: self.begin_anew(n, zombie, 1 + number % 2),
            "phase": lambda: self.phase(n, zombie, PHASES[number]),
            "succeed": lambda: self.succeed(n, zombie, again=number > 5),
            "fail": lambda: self.fail(n, zombie),
            "yield": lambda: self.give_back(n, zombie, crashed=False),
            "crash": lambda: self.give_back(n, zombie, crashed=True),
            "put off": lambda: self.put_off(n, zombie),
        }
        deeds[deed]()

    # ---- users

    def submit(self) -> None:
        if len(self._going()) >= MOST:
            return
        with self.sessions.write() as session:
            self.lives[submission.insert(session, PROJECT, self.order).id] = Life()

    def cancel(self, n: int, keep: bool) -> None:
        for job_id, life in self._one(n):
            wish = "finish" if keep else "cancel"
            fine = not life.over and (life.desired != "cancel" or not keep)
            with self._expect(StateConflict, unless=fine) as session:
                jobs.cancel(session, PROJECT, job_id, "keep" if keep else "discard")
            if not fine:
                continue
            life.discarded |= not keep
            if life.status == "running" or (keep and life.step):
                finishing = life.desired == "finish" and life.status == "queued"
                life.status = "running" if life.status == "running" else "queued"
                life.delayed &= finishing or life.status == "running"
                life.desired = wish
            else:
                life.status = "cancelled"

    def pause(self, n: int) -> None:
        for job_id, life in self._one(n):
            fine = not life.over and life.desired in ("run", "pause")
            with self._expect(StateConflict, unless=fine) as session:
                jobs.pause(session, PROJECT, job_id)
            if fine:
                life.desired = "pause"
                life.status = "running" if life.status == "running" else "paused"

    def resume(self, n: int) -> None:
        for job_id, life in self._one(n):
            fine = not life.over and life.desired == "pause"
            with self._expect(StateConflict, unless=fine) as session:
                jobs.resume(session, PROJECT, job_id)
            if fine:
                life.desired = "run"
                if life.status == "paused":
                    life.status, life.delayed = "queued", False

    def retry(self, n: int) -> None:
        for job_id, life in self._one(n):
            if len(self._going()) >= MOST:
                return
            fine = life.status in ("failed", "cancelled")
            made = ""
            with self._expect(StateConflict, unless=fine) as session:
                made = copies.retry(session, PROJECT, job_id).id
            if fine:
                self.lives[made] = Life(step=life.step, steps=life.steps[-2:])

    # ---- workers

    def claim(self) -> None:
        waiting = [id_ for id_, life in self.lives.items() if life.status == "queued" and not life.delayed]
        with self.sessions.write() as session:
            job = claims.claim(session, "worker", ("cpu",), LEASE_S)
        assert (job and job.id) == (waiting[0] if waiting else None)  # the oldest one
        if waiting:
            life = self.lives[waiting[0]]
            life.status, life.late = "running", False
            life.attempt += 1

    def renew(self, n: int, zombie: bool) -> None:
        for job_id, life in self._one(n):
            mine = self._owns(life, zombie) and not life.late
            with self._expect(LeaseLost, unless=mine) as session:
                assert jobs.renew(session, job_id, life.attempt - zombie, LEASE_S).desired == life.desired

    def checkpoint(self, n: int, zombie: bool, ahead: int) -> None:
        for job_id, life in self._one(n):
            mine, step = self._owns(life, zombie), max(life.step + ahead, 1)
            saved = {"step": step, "manifest": f"{step:064}", "size": 1, "best": False, "metrics": {}}
            with self._expect(LeaseLost, unless=mine) as session:
                checkpoints.save(session, job_id, life.attempt - zombie, **saved)  # type: ignore[arg-type]
            if mine and step > life.step:
                life.step, life.no_progress = step, 0
                life.steps = [*life.steps, step][-2:]

    def begin_anew(self, n: int, zombie: bool, step: int) -> None:
        """A checkpoint of an attempt that could go on from none."""
        for job_id, life in self._one(n):
            mine = self._owns(life, zombie)
            void = [f"{one:064}" for one in life.steps]
            about: dict[str, Any] = {"size": 1, "best": False, "metrics": {}, "void": void}
            with self._expect(LeaseLost, unless=mine) as session:
                checkpoints.save(
                    session, job_id, life.attempt - zombie, step=step, manifest=f"{step:064}", **about
                )
            if mine and step != life.step:
                life.step, life.no_progress, life.steps = step, 0, [step]

    def phase(self, n: int, zombie: bool, phase: str) -> None:
        for job_id, life in self._one(n):
            mine, done = self._owns(life, zombie), PHASES.index(phase) + 1
            with self._expect(LeaseLost, unless=mine) as session:
                jobs.start_phase(session, job_id, life.attempt - zombie, phase)
                jobs.end_phase(session, job_id, life.attempt - zombie, phase)
            if mine and done > life.phases_done:
                life.phases_done, life.no_progress = done, 0

    def succeed(self, n: int, zombie: bool, again: bool) -> None:
        for job_id, life in self._one(n):
            repeated = life.status == "succeeded" and not zombie
            mine = (self._owns(life, zombie) and life.desired != "cancel") or repeated
            for _ in range(1 + again):  # as after a lost reply
                with self._expect(LeaseLost, unless=mine) as session:
                    self._succeed(session, job_id, life.attempt - zombie)
            if mine:
                life.status = "succeeded"

    def fail(self, n: int, zombie: bool) -> None:
        for job_id, life in self._one(n):
            mine = self._owns(life, zombie)
            with self._expect(LeaseLost, unless=mine) as session:
                jobs.fail(session, job_id, life.attempt - zombie, {"code": "x", "detail": "y"})
            if mine:
                life.status = "cancelled" if life.desired == "cancel" else "failed"

    def give_back(self, n: int, zombie: bool, crashed: bool) -> None:
        for job_id, life in self._one(n):
            mine = self._owns(life, zombie)
            with self._expect(LeaseLost, unless=mine) as session:
                if crashed:
                    jobs.crash(session, job_id, life.attempt - zombie, "it was killed", LIMIT)
                else:
                    jobs.yield_(session, job_id, life.attempt - zombie)
            if mine:
                life.back(crashed=crashed)

    def put_off(self, n: int, zombie: bool) -> None:
        for job_id, life in self._one(n):
            mine = self._owns(life, zombie)
            with self._expect(LeaseLost, unless=mine) as session:
                jobs.put_off(session, job_id, life.attempt - zombie, "the store is away")
            if mine:
                life.back(crashed=False)
                life.delayed = True

    def reap(self) -> None:
        silent = [id_ for id_, life in self.lives.items() if life.status == "running" and life.late]
        with self.sessions.write() as session:
            assert sorted(jobs.reap(session, LIMIT)) == sorted(silent)
        for job_id in silent:
            self.lives[job_id].back(crashed=True, lost=True)

    # ---- time

    def lease_runs_out(self, n: int) -> None:
        for job_id, life in self._one(n):
            if life.status == "running":
                self._set(job_id, lease_expires_at=db_now(-1.0))
                life.late = True

    def delays_pass(self) -> None:
        for job_id, life in self.lives.items():
            if life.delayed and not life.over:
                self._set(job_id, available_at=db_now(-1.0))
                life.delayed = False

    # ---- what must hold after each step

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        with self.sessions.read() as session:
            rows = {job.id: job for job in session.scalars(select(Job))}
            told = {row.job_id: row for row in session.execute(_EVENTS)}
            kept: dict[str, list[int]] = {job_id: [] for job_id in self.lives}
            for saved in session.scalars(select(JobCheckpoint).order_by(JobCheckpoint.step)):
                kept[saved.job_id].append(saved.step)
        assert set(rows) == set(self.lives)
        for job_id, life in self.lives.items():
            job, events = rows[job_id], told[job_id]
            assert life.told() == (
                job.status, job.desired, job.attempt, job.checkpoint_step, job.no_progress, job.phases_done,
                job.interruptions, job.failures,
            )  # fmt: skip
            assert (events.first, events.last, events.number) == (1, job.last_seq, job.last_seq)
            assert (events.successes, events.ends) == (life.status == "succeeded", life.over)
            assert not (life.discarded and life.status == "succeeded")
            if life.attempt and not life.over:  # the clock runs, or its rest is kept
                runs = life.status == "running"
                assert (job.deadline_at is not None, job.runtime_left_s is None) == (runs, runs)
            assert kept[job_id] == life.steps
            if life.over:
                row = {name: value for name, value in vars(job).items() if not name.startswith("_")}
                assert self.ended.setdefault(job_id, row) == row

    # ---- tools

    def _one(self, n: int) -> list[tuple[str, Life]]:
        """Mostly a job that has not ended."""
        going = self._going()
        found = going if going and n < 5 else list(self.lives.items())
        return [found[n % len(found)]]

    def _going(self) -> list[tuple[str, Life]]:
        return [(job_id, life) for job_id, life in self.lives.items() if not life.over]

    def _owns(self, life: Life, zombie: bool) -> bool:
        return life.status == "running" and not zombie

    @contextmanager
    def _expect(self, refusal: type[Exception], *, unless: bool) -> Iterator[Session]:
        if unless:
            with self.sessions.write() as session:
                yield session
        else:
            with pytest.raises(refusal), self.sessions.write() as session:
                yield session

    def _set(self, job_id: str, **values: Any) -> None:
        with self.sessions.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(values))

    def _succeed(self, session: Session, job_id: str, attempt: int) -> None:
        job = session.get_one(Job, job_id)
        made: dict[str, Any] = {"manifest": "a" * 64, "artifacts": [], "outcome": {}, "usage": {}}
        jobs.succeed(session, job_id, attempt, checkpoint=orders.student(job), **made)


_ENDS = Event.type == "job.ended"
_EVENTS = select(
    Event.job_id,
    func.min(Event.seq).label("first"),
    func.max(Event.seq).label("last"),
    func.count().label("number"),
    func.sum(case((_ENDS & (Event.message == "succeeded"), 1), else_=0)).label("successes"),
    func.sum(case((_ENDS, 1), else_=0)).label("ends"),
).group_by(Event.job_id)


def test_jobs_live_as_the_model_says(sessions: Sessions) -> None:
    with sessions.write() as session:
        orders.stock(session)
        planned = orders.submit(session, Settings())
        order = submission.Order(Resolved.model_validate(planned.resolved), planned.spec, planned.spec_digest)
        session.execute(delete(Job))
    JobLife.sessions, JobLife.order = sessions, order
    run_state_machine_as_test(JobLife, settings=EXAMPLES)
