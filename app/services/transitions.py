"""The one way in which a job's row changes: a guarded UPDATE that moves `version` and numbers its events.

Only services.jobs with its parts, services.claims, services.checkpoints, services.hops and
services.submission use it; an import contract holds them to that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Table, insert, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import Event, Job
from app.errors import LeaseLost, NotFound, shown
from app.services import usage

Json = dict[str, Any]
_INSERT_EVENTS = insert(cast("Table", Event.__table__))
# how an attempt ends: by its own verdict, handed back, by a crash, or with its worker
Cause = Literal["ended", "yielded", "crashed", "lost"]


@dataclass(frozen=True)
class Note:
    """An event to be."""

    type: str
    message: str
    level: Literal["info", "warning", "error"] = "info"
    phase: str | None = None
    data: Json = field(default_factory=dict)


def change(
    session: Session,
    job_id: Any,
    *guards: ColumnElement[bool],
    events: Sequence[Note] = (),
    **values: Any,
) -> Job | None:
    """One UPDATE that moves `version` and makes room for the events; None when a guard does not hold."""
    if "artifacts" in values:
        values["artifact_bytes"] = sum(artifact["size"] for artifact in values["artifacts"])
    statement = changing(job_id, *guards, events=len(events), **values)
    job = session.execute(statement).scalar_one_or_none()
    if job is None:
        return None
    if events:
        write_events(session, job.id, job.last_seq - len(events) + 1, events)
    if values.get("status", "running") != "running":
        usage.settle(session, job)
    return job


def changing(job_id: Any, *guards: ColumnElement[bool], events: int, **values: Any) -> ReturningUpdate[Job]:
    """The UPDATE itself, for who writes the events alone: they have the last of the row's numbers."""
    return (
        update(Job)
        .where(Job.id == job_id, *guards)
        .values(version=Job.version + 1, last_seq=Job.last_seq + events, **values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def write_events(session: Session, job_id: str, first: int, events: Sequence[Note]) -> None:
    """A trigger puts a row each into the outbox, from where they are handed on."""
    rows = [
        {"job_id": job_id, "seq": seq, "id": new_id("evt"), **vars(one)}
        for seq, one in enumerate(events, first)
    ]
    if rows:
        session.execute(_INSERT_EVENTS, rows)


def held(session: Session, project_id: str, job_id: str) -> Job:
    """The job, whose row nobody else changes until this transaction ends. Raises NotFound."""
    named = select(Job).where(Job.id == job_id, Job.project_id == project_id).with_for_update()
    job = session.execute(named.execution_options(populate_existing=True)).scalar_one_or_none()
    if job is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    return job


def owned_by(job_id: str, attempt: int) -> list[ColumnElement[bool]]:
    return [Job.id == job_id, Job.attempt == attempt, Job.status == "running"]


def owner_row(session: Session, job_id: str, attempt: int) -> Job:
    statement = select(Job).where(*owned_by(job_id, attempt)).with_for_update()
    job = session.execute(statement.execution_options(populate_existing=True)).scalar_one_or_none()
    if job is None:
        raise lost(job_id, attempt)
    return job


def owner_change(
    session: Session,
    job_id: str,
    attempt: int,
    *guards: ColumnElement[bool],
    events: Sequence[Note] = (),
    **values: Any,
) -> Job:
    job = change(session, job_id, *owned_by(job_id, attempt), *guards, events=events, **values)
    if job is None:
        raise lost(job_id, attempt)
    return job


def lost(job_id: str, attempt: int) -> LeaseLost:
    return LeaseLost(f"Attempt {attempt} does not own job {job_id} any more.")


def end(status: str) -> Json:
    return {"status": status, "ended_at": db_now(), "lease_owner": None, "lease_expires_at": None}


def ended(
    status: str,
    message: str,
    level: Literal["info", "error"] = "info",
    phase: str | None = None,
    data: Json | None = None,
) -> list[Note]:
    told = {"status": status, **(data or {})}
    return [Note("job.status", status, level, phase, told), Note("job.ended", message, level, phase, told)]


def attempt_ended(attempt: int, why: str | None = None, cause: Cause = "ended") -> Note:
    """why: None: it ended as it should."""
    data = {"attempt": attempt, "cause": cause}
    if why is None:
        return Note("attempt.ended", f"attempt {attempt} ended", data=data)
    return Note("attempt.ended", f"attempt {attempt} ended: {why}", "warning", data=data)
