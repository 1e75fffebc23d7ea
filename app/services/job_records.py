"""Reading jobs: one, a list, their events and their metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Row, Select, or_, select
from sqlalchemy.orm import Session

from app.db.tables import Event, Job, JobLabel, JobReference, MetricPoint, ModelVersion
from app.errors import NotFound, StateConflict, shown
from app.services import models, places
from app.services.places import Waiting


@dataclass(frozen=True)
class Record:
    """A job as it is shown. output_version: its model version's number. waiting: of a queued one."""

    job: Job
    output_version: int | None
    waiting: Waiting | None = None


@dataclass(frozen=True)
class Filters:
    """What a list of jobs is narrowed to. model: a reference; q: part of a name, or an id."""

    status: Sequence[str] = ()
    task: str | None = None
    model: str | None = None
    labels: Mapping[str, str] | None = None
    q: str | None = None


def get(session: Session, project_id: str, job_id: str) -> Record:
    """Raises NotFound."""
    row = session.execute(_shown().where(Job.id == job_id, Job.project_id == project_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    return _records(session, [row])[0]


def submitted(session: Session, job: Job) -> Record:
    """The same of a job that was submitted a moment ago, or earlier under the same key."""
    if job.status == "queued" and job.attempt == 0:
        return Record(job, None, places.uncounted(session, job))
    return get(session, job.project_id, job.id)


def list_(
    session: Session, project_id: str, filters: Filters, before: str | None, limit: int
) -> list[Record]:
    """Newest first, from below the id `before`. Raises UnknownReference for a model that is not there."""
    query = _shown().where(Job.project_id == project_id, *_conditions(session, project_id, filters))
    if before is not None:
        query = query.where(Job.id < before)
    rows = session.execute(query.order_by(Job.id.desc()).limit(limit)).all()
    return _records(session, rows)


def events(session: Session, project_id: str, job_id: str, after: int, limit: int) -> list[Event]:
    """In order, behind the number `after`. Raises NotFound."""
    _exists(session, project_id, job_id)
    query = select(Event).where(Event.job_id == job_id, Event.seq > after).order_by(Event.seq).limit(limit)
    return list(session.scalars(query))


def metrics(
    session: Session, project_id: str, job_id: str, name: str | None, split: str | None
) -> list[MetricPoint]:
    """Every point, by series and step. Raises NotFound."""
    _exists(session, project_id, job_id)
    query = select(MetricPoint).where(MetricPoint.job_id == job_id)
    if name is not None:
        query = query.where(MetricPoint.name == name)
    if split is not None:
        query = query.where(MetricPoint.split == split)
    return list(session.scalars(query.order_by(MetricPoint.name, MetricPoint.split, MetricPoint.step)))


def thinned(points: Sequence[MetricPoint], most: int) -> list[MetricPoint]:
    """At most `most` points of every series, evenly spread over it, its last one always among them."""
    series: dict[tuple[str, str], list[MetricPoint]] = {}
    for point in points:
        series.setdefault((point.name, point.split), []).append(point)
    kept: list[MetricPoint] = []
    for one in series.values():
        count = min(most, len(one))
        kept += [one[len(one) - 1 - place * len(one) // count] for place in reversed(range(count))]
    return kept


def artifact(session: Session, project_id: str, job_id: str, name: str) -> dict[str, object]:
    """{name, sha256, size, media_type}. Raises NotFound, or StateConflict while it may yet be made."""
    job = get(session, project_id, job_id).job
    found: dict[str, object] | None = next((one for one in job.artifacts if one["name"] == name), None)
    if found is not None:
        return found
    if job.ended_at is None:
        raise StateConflict(f"Job {job_id} is {job.status}: its artifacts are there once it has succeeded.")
    there = ", ".join(one["name"] for one in job.artifacts) or "none, for it did not succeed"
    raise NotFound(f"Job {job_id} has no artifact {shown(name)}; it has {there}.")


def _shown() -> Select[Job, int | None]:
    return select(Job, ModelVersion.version).outerjoin(ModelVersion, ModelVersion.id == Job.output_version_id)


def _records(session: Session, rows: Sequence[Row[Job, int | None]]) -> list[Record]:
    waiting = places.waiting(session, [job for job, _ in rows])
    return [Record(job, version, waiting.get(job.id)) for job, version in rows]


def _conditions(session: Session, project_id: str, filters: Filters) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if filters.status:
        found.append(Job.status.in_(filters.status))
    if filters.task is not None:
        found.append(Job.task == filters.task)
    if filters.model is not None:
        version_id = models.identify(session, project_id, filters.model)
        uses = select(JobReference.job_id).where(JobReference.target_id == version_id)
        found.append(or_(Job.id.in_(uses), Job.output_version_id == version_id))
    for key, value in (filters.labels or {}).items():
        labeled = select(JobLabel.job_id).where(JobLabel.key == key, JobLabel.value == value)
        found.append(Job.id.in_(labeled))
    if filters.q:
        found.append(or_(Job.name.icontains(filters.q, autoescape=True), Job.id == filters.q))
    return found


def _exists(session: Session, project_id: str, job_id: str) -> None:
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.project_id == project_id)) is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
