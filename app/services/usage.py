"""What projects took: seconds of machines from a ledger, predictions from counters, bytes as they stand now.

The ledger is written in the transaction that ends an attempt, so it counts each once, whatever crashes, and
it outlives the job. Seconds are those that an attempt held its worker; on a GPU worker they count as GPU
seconds, once for each GPU. An attempt over midnight (UTC) is divided between its days.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import ColumnElement, distinct, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.dialect import db_now
from app.db.tables import (
    ComputeUsage,
    Dataset,
    Job,
    JobCheckpoint,
    ModelVersion,
    PredictionUsage,
    Signals,
)


@dataclass
class Day:
    """What a project took on a UTC day. jobs: those of which an attempt ended."""

    project_id: str
    day: str
    jobs: int = 0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    predictions: int = 0
    predicted_rows: int = 0


@dataclass(frozen=True)
class Bytes:
    """What is stored now; content that several share is counted for each."""

    datasets: int
    models: int
    artifacts: int
    checkpoints: int
    answers: int  # teachers' answers, which may go at any time

    @property
    def limited(self) -> int:
        """What `max_bytes` is about."""
        return self.datasets + self.models + self.artifacts


def settle(session: Session, job: Job, end: datetime | None = None) -> None:
    """Writes down what the job's newest attempt took, once. Called where a job stops running. end: None means
    now."""
    if job.attempt_started_at is None:
        return  # no attempt has run yet
    known = select(ComputeUsage.day).where(ComputeUsage.job_id == job.id, ComputeUsage.attempt == job.attempt)
    if session.scalar(known.limit(1)) is not None:
        return  # it waited: its last attempt is settled
    rows = [
        {
            "job_id": job.id,
            "attempt": job.attempt,
            "day": day,
            "project_id": job.project_id,
            "cpu_s": seconds if job.device != "cuda" else 0.0,
            "gpu_s": seconds * job.devices if job.device == "cuda" else 0.0,
        }
        for day, seconds in _by_day(job.attempt_started_at, end or _now(session))
    ]
    session.execute(insert(ComputeUsage), rows)


def days(session: Session, projects: Sequence[str] | None, first: date, last: date) -> list[Day]:
    """By day and project, those on which anything was taken. projects: None means all."""
    found: dict[tuple[str, str], Day] = {}

    def of(project_id: str, day: str) -> Day:
        return found.setdefault((day, project_id), Day(project_id, day))

    within = [ComputeUsage.day >= first.isoformat(), ComputeUsage.day <= last.isoformat()]
    computed = select(
        ComputeUsage.project_id,
        ComputeUsage.day,
        func.count(distinct(ComputeUsage.job_id)),
        func.sum(ComputeUsage.cpu_s),
        func.sum(ComputeUsage.gpu_s),
    ).where(*within)
    predicted = select(PredictionUsage).where(
        PredictionUsage.day >= first.isoformat(), PredictionUsage.day <= last.isoformat()
    )
    if projects is not None:
        computed = computed.where(ComputeUsage.project_id.in_(projects))
        predicted = predicted.where(PredictionUsage.project_id.in_(projects))
    for project_id, day, jobs, cpu_s, gpu_s in session.execute(
        computed.group_by(ComputeUsage.project_id, ComputeUsage.day)
    ):
        entry = of(project_id, day)
        entry.jobs, entry.cpu_s, entry.gpu_s = jobs, round(cpu_s, 3), round(gpu_s, 3)
    for row in session.scalars(predicted):
        entry = of(row.project_id, row.day)
        entry.predictions, entry.predicted_rows = row.requests, row.rows
    return [found[place] for place in sorted(found)]


def stored(session: Session, project_id: str) -> Bytes:
    def total(size: InstrumentedAttribute[int], whose: ColumnElement[bool]) -> int:
        return int(session.scalar(select(func.sum(size)).where(whose)) or 0)

    saved = select(func.sum(JobCheckpoint.size)).join(Job, Job.id == JobCheckpoint.job_id)
    return Bytes(
        datasets=total(Dataset.size, Dataset.project_id == project_id),
        models=total(ModelVersion.size, ModelVersion.project_id == project_id),
        artifacts=total(Job.artifact_bytes, Job.project_id == project_id),
        checkpoints=int(session.scalar(saved.where(Job.project_id == project_id)) or 0),
        answers=total(Signals.size, Signals.project_id == project_id),
    )


def gpu_s_this_month(session: Session, project_id: str) -> float:
    """Since the month began (UTC), attempts that still run included."""
    return gpu_s_of_projects(session, [project_id])[project_id]


def gpu_s_of_projects(session: Session, projects: Sequence[str]) -> dict[str, float]:
    """The same of several."""
    now = _now(session)
    began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    spent = dict.fromkeys(projects, 0.0)
    ledger = select(ComputeUsage.project_id, func.sum(ComputeUsage.gpu_s)).where(
        ComputeUsage.project_id.in_(projects), ComputeUsage.day >= began.date().isoformat()
    )
    for project_id, seconds in session.execute(ledger.group_by(ComputeUsage.project_id)):
        spent[project_id] += seconds
    running = select(Job.project_id, Job.attempt_started_at, Job.devices).where(
        Job.project_id.in_(projects), Job.status == "running", Job.device == "cuda"
    )
    for project_id, started_at, devices in session.execute(running):
        if started_at is not None:
            spent[project_id] += (now - max(started_at, began)).total_seconds() * devices
    return spent


def seconds_left_of_month(session: Session) -> int:
    now = _now(session)
    month_after = (now.replace(day=1) + timedelta(days=32)).replace(day=1)
    ends = datetime.combine(month_after.date(), time(), UTC)
    return int((ends - now).total_seconds()) + 1


def add_predictions(session: Session, counted: dict[tuple[str, str], tuple[int, int]]) -> None:
    """counted: (requests, rows) by (project, day). In order, for two who add not to wait for each other."""
    for (project_id, day), (requests, rows) in sorted(counted.items()):
        row = session.get(PredictionUsage, (project_id, day), with_for_update=True)
        if row is None:
            _begin_day(session, project_id, day)
            row = session.get_one(PredictionUsage, (project_id, day), with_for_update=True)
        row.requests += requests
        row.rows += rows
        session.flush()


def _begin_day(session: Session, project_id: str, day: str) -> None:
    """Another process may have made the row meanwhile."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(PredictionUsage(project_id=project_id, day=day, requests=0, rows=0))


def _now(session: Session) -> datetime:
    now: datetime | None = session.scalar(select(db_now()))
    assert now is not None
    return now


def _by_day(start: datetime, end: datetime) -> Iterator[tuple[str, float]]:
    """(day, seconds) of each UTC day from start to end; at least one."""
    while True:
        midnight = datetime.combine(start.date() + timedelta(days=1), time(), UTC)
        yield start.date().isoformat(), max((min(end, midnight) - start).total_seconds(), 0.0)
        if end <= midnight:
            return
        start = midnight
