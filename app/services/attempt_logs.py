"""What attempts said: a log each, kept as a blob when the attempt's process has ended."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import AttemptLog, Event, Job
from app.errors import NotFound, StateConflict, shown
from app.services import phases

TAIL = 10  # events that an error repeats

Json = dict[str, Any]


def tail(session: Session, job_id: str) -> list[str]:
    """The job's last events, a line each: what went on when it failed, and nothing that is only for us."""
    told = select(Event).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(TAIL)
    return [f"{phases.stamp(event.at)} {event.level} {event.message}" for event in session.scalars(told)][
        ::-1
    ]


def add(session: Session, job_id: str, attempt: int, *, sha256: str, size: int) -> None:
    """Nothing where the job was deleted meanwhile. The blob is stored already."""
    if session.scalar(select(Job.id).where(Job.id == job_id).with_for_update(key_share=True)) is not None:
        session.merge(AttemptLog(job_id=job_id, attempt=attempt, sha256=sha256, size=size))
        session.flush()


def find(session: Session, project_id: str, job_id: str, attempt: int | None) -> AttemptLog:
    """The attempt's log; None: the newest there is.

    Raises NotFound, or StateConflict while there may yet be one.
    """
    job = session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))
    if job is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    logs = select(AttemptLog).where(AttemptLog.job_id == job_id).order_by(AttemptLog.attempt.desc())
    found = list(session.scalars(logs))
    wanted = next((log for log in found if attempt in (None, log.attempt)), None)
    if wanted is not None:
        return wanted
    if job.ended_at is None and attempt in (None, job.attempt):
        raise StateConflict(f"Job {job_id} is {job.status}: an attempt's log is there once it has ended.")
    there = ", ".join(str(log.attempt) for log in found[::-1])
    of = f"its attempts {there}" if there else "none of its attempts"
    raise NotFound(f"Job {job_id} has no such log; there is one of {of}.")
