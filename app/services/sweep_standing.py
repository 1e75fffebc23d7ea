"""How a sweep and its trials stand, and what follows from it: whether a step is due, and which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.catalog.sweep import SweepSpec, overlaps
from app.db.dialect import TERMINAL, db_now
from app.db.tables import Job, MetricPoint, Sweep, SweepTrial
from app.services import search, sweeps
from app.services.phases import PHASES
from app.services.search import Tried

HOPELESS = 3  # first trials that all fail end a sweep
ANSWERED = PHASES.index("signals") + 1  # phases done when the teachers' answers are stored
# What varies there may ask the teachers for other answers; the seed draws the views of augmented rows.
OF_ANSWERS = ("/task", "/teachers", "/data", "/signals", "/training/seed")

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A trial and how its job stands; None: it has none any more."""

    trial: SweepTrial
    status: str | None
    desired: str | None
    phases_done: int
    best: Json | None
    artifacts: Sequence[Json]
    error: Json | None

    @property
    def running(self) -> bool:
        return self.trial.status == "running"

    @property
    def over(self) -> bool:
        """Its job has ended, and the trial does not say so yet."""
        return self.running and (self.status is None or self.status in TERMINAL)


@dataclass(frozen=True)
class Standing:
    """A sweep as it stands. overdue: its hours are over."""

    sweep: Sweep
    order: SweepSpec
    rows: list[Row]
    overdue: bool

    @property
    def metric(self) -> str | None:
        """The sweep's, or the one by which the first trial that measured anything chooses its step."""
        measured = (row.best["metric"] for row in self.rows if row.best)
        return self.sweep.metric or next(measured, None)

    @property
    def total(self) -> int:
        return int(min(self.order.budget.trials, self.order.combinations()))

    @property
    def running(self) -> list[Row]:
        return [row for row in self.rows if row.running]

    @property
    def succeeded_jobs(self) -> list[Row]:
        return [row for row in self.rows if row.over and row.status == "succeeded"]

    @property
    def lost(self) -> bool:
        """Its first trials all failed."""
        first = [row.trial.status for row in self.rows[:HOPELESS]]
        return len(first) == min(HOPELESS, self.total) and set(first) == {"failed"}

    @property
    def unwanted(self) -> bool:
        return self.sweep.desired == "cancel" or self.lost

    @property
    def room(self) -> int:
        """How many trials may begin now."""
        if self.unwanted or self.overdue:
            return 0
        running = self.running
        answered = [row for row in self.rows if row.phases_done >= ANSWERED]
        if any(overlaps(place, other) for place in self.order.space for other in OF_ANSWERS):
            free = 0 if any(row not in answered for row in running) else 1
        else:
            free = self.order.budget.parallel if answered else 1 - len(running)
        return min(free, self.order.budget.parallel - len(running), self.total - len(self.rows))

    @property
    def to_stop(self) -> list[Row]:
        """Running trials whose jobs have to be told."""
        told = {"cancel"} if self.unwanted else {"cancel", "finish"} if self.overdue else None
        return [row for row in self.running if told and not row.over and row.desired not in told]

    @property
    def is_due(self) -> bool:
        ended = any(row.over for row in self.rows)
        return ended or self.room > 0 or bool(self.to_stop) or not self.running


def look(session: Session, sweep_id: str) -> Standing:
    sweep = session.get_one(Sweep, sweep_id, populate_existing=True)
    of_job = (Job.status, Job.desired, func.coalesce(Job.phases_done, 0), Job.best, Job.artifacts, Job.error)
    query = (
        select(SweepTrial, *of_job)
        .outerjoin(Job, Job.id == SweepTrial.job_id)
        .where(SweepTrial.sweep_id == sweep_id)
        .order_by(SweepTrial.number)
        .execution_options(populate_existing=True)
    )
    overdue = sweep.deadline_at is not None and bool(session.scalar(select(db_now() >= sweep.deadline_at)))
    order = SweepSpec.model_validate(sweep.resolved)
    return Standing(sweep, order, [Row(*row) for row in session.execute(query)], overdue)


def hopeless(session: Session, seen: Standing) -> dict[int, Json]:
    """Why, by number, of the running trials that are to be pruned."""
    rule, metric = seen.order.pruning, seen.metric
    others = [tried(seen, row) for row in seen.rows]
    enough = sum(one.status == "succeeded" for one in others)
    if rule is None or metric is None or enough < rule.startup_trials:
        return {}
    found = {}
    for row in seen.running:
        if row.status == "running" and row.desired == "run":
            curve = points(session, row, metric)
            trial = tried(seen, row, [value for _, value in curve])
            if why := search.give_up(seen.order, trial, others, metric):
                found[row.trial.number] = {**why, "step": curve[-1][0]}
    return found


def tried(seen: Standing, row: Row, curve: Sequence[float] | None = None) -> Tried:
    trial, against = row.trial, seen.order.objective.against
    return Tried(
        number=trial.number,
        parameters=trial.parameters,
        status=trial.status,
        value=trial.value,
        cost=sweeps.cost(trial, against) if trial.status == "succeeded" else None,
        curve=trial.curve if curve is None else curve,
        size=trial.student_parameters,
    )


def points(session: Session, row: Row, metric: str) -> list[tuple[int, float]]:
    """The metric over the validation rows, by step; there is one an epoch."""
    query = select(MetricPoint.step, MetricPoint.value).where(
        MetricPoint.job_id == row.trial.job_id,
        MetricPoint.name == metric,
        MetricPoint.split == "validation",
    )
    return [(step, value) for step, value in session.execute(query.order_by(MetricPoint.step))]
