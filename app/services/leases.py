"""What a worker's supervisor does with a job that runs: keep its lease, and end an attempt without a verdict.

`max_runtime_s` counts while attempts run: what is left of it is kept while the job is given back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Event, Job, Project
from app.errors import Poison
from app.services import phases, usage
from app.services.attempt_logs import tail
from app.services.transitions import (
    Cause,
    Note,
    attempt_ended,
    end,
    ended,
    lost,
    owned_by,
    owner_change,
    owner_row,
)

BACKOFF_S, BACKOFF_MOST_S = 5.0, 300.0  # doubled with each attempt that got no further
AWAY_S, AWAY_MOST_S = 15.0, 300.0  # before a job whose database or store was away is tried again
LEAVING = "its worker is shutting down"
_MAX_GPU_S = select(Project.max_gpu_s).where(Project.id == Job.project_id).correlate(Job).scalar_subquery()

Json = dict[str, Any]


@dataclass(frozen=True)
class Orders:
    """What a renewal brings back: what the user wants, and whether the job is past its deadline.

    out_of_gpu: it is on a GPU, and its project's `max_gpu_s` are used up.
    """

    desired: str
    overdue: bool
    out_of_gpu: bool = False


def silent() -> list[ColumnElement[bool]]:
    """What makes a running job one that its worker has lost."""
    return [Job.status == "running", Job.lease_expires_at <= db_now()]


def next_end_s(session: Session) -> float | None:
    """Seconds until the first of all leases is over; None: nothing runs."""
    held = select(func.min(Job.lease_expires_at), db_now()).where(Job.status == "running")
    first, now = session.execute(held).one()
    return None if first is None else float((first - now).total_seconds())


def renew(session: Session, job_id: str, attempt: int, lease_s: float) -> Orders:
    """Keeps the lease. Raises LeaseLost when it is over or another attempt has begun."""
    row = session.execute(
        update(Job)
        .where(*owned_by(job_id, attempt), Job.lease_expires_at > db_now())
        .values(lease_expires_at=db_now(lease_s))
        .returning(Job.desired, Job.deadline_at <= db_now(), Job.project_id, Job.device, _MAX_GPU_S)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise lost(job_id, attempt)
    desired, overdue, project_id, device, max_gpu_s = row
    limited = device == "cuda" and max_gpu_s is not None
    out_of_gpu = limited and usage.gpu_s_this_month(session, project_id) >= max_gpu_s
    return Orders(desired, bool(overdue), out_of_gpu)


def yield_(session: Session, job_id: str, attempt: int, *, why: str = LEAVING) -> None:
    """Hands a job back without penalty, for it is not to blame. What its user wished meanwhile is done."""
    _yielded(session, owner_row(session, job_id, attempt), why, 0.0)


def put_off(session: Session, job_id: str, attempt: int, why: str) -> None:
    """Hands a job back without penalty whose attempt lacked what it needs: from one time to the next it waits
    twice as long, until an attempt saves a checkpoint or ends in another way."""
    job = owner_row(session, job_id, attempt)
    _yielded(session, job, why, min(max(AWAY_S, 2 * _put_off_s(session, job)), AWAY_MOST_S))


def crash(session: Session, job_id: str, attempt: int, why: str, max_no_progress: int) -> None:
    """The attempt's process died without a verdict: again with a growing delay, or poison."""
    _crashed(session, owner_row(session, job_id, attempt), why, max_no_progress, cause="crashed")


def cancelled(session: Session, job_id: str, attempt: int) -> None:
    """The attempt was stopped because its user discarded the job."""
    job = owner_row(session, job_id, attempt)
    owner_change(
        session,
        job_id,
        attempt,
        Job.desired == "cancel",
        events=[attempt_ended(attempt), *ended("cancelled", "cancelled by its user")],
        phases=phases.closed(job, "cancelled"),
        **end("cancelled"),
    )


def reap(session: Session, max_no_progress: int) -> list[str]:
    """Takes back every running job whose lease is over, whoever held it; their ids."""
    over = select(Job).where(*silent()).order_by(Job.id).limit(100)
    jobs = list(session.execute(over.with_for_update(skip_locked=True)).scalars())
    for job in jobs:
        usage.settle(session, job, job.lease_expires_at)  # nobody worked any more once it was over
        _crashed(session, job, "its worker fell silent", max_no_progress, cause="lost")
    return [job.id for job in jobs]


def _yielded(session: Session, job: Job, why: str, delay_s: float) -> None:
    if not _stopped(session, job, why, "yielded"):
        _back(session, job, why, delay_s, cause="yielded", interruptions=job.interruptions + 1)


def _put_off_s(session: Session, job: Job) -> float:
    """How long the attempt before this one was put off; 0: it was not, or this one has got further."""
    told = select(Event.data).where(
        Event.job_id == job.id, Event.type.in_(("attempt.ended", "checkpoint.saved"))
    )
    last = session.scalar(told.order_by(Event.seq.desc()).limit(1)) or {}
    return float(last.get("retry_in_s", 0.0)) if last.get("cause") == "yielded" else 0.0


def _crashed(session: Session, job: Job, why: str, limit: int, *, cause: Cause) -> None:
    if _stopped(session, job, why, cause):
        return
    counts = {"no_progress": job.no_progress + 1, "failures": job.failures + 1}
    if job.no_progress + 1 >= limit and job.desired != "pause":  # its user may know what to do about it
        _poisoned(session, job, why, cause, **counts)
    else:
        waited_s = BACKOFF_S if cause == "lost" else 0.0  # for its lease to end
        delay_s = min(BACKOFF_S * 2**job.no_progress, BACKOFF_MOST_S)
        _back(session, job, why, delay_s - waited_s, cause=cause, **counts)


def _stopped(session: Session, job: Job, why: str, cause: Cause) -> bool:
    """Ends the job where its user wished that and nothing is left to be done; False: not so."""
    if job.desired == "cancel":
        message = "cancelled by its user"
    elif job.desired == "finish" and not job.checkpoint_step:
        message = f"stopped by its user, with nothing to keep: {why}"
    else:
        return False
    told = [attempt_ended(job.attempt, why, cause), *ended("cancelled", message)]
    _end(session, job, told, "cancelled")
    return True


def _poisoned(session: Session, job: Job, why: str, cause: Cause, **counts: int) -> None:
    tries, phase = job.no_progress + 1, phases.running(job)
    error = Poison(
        f"{tries} attempts ended without getting further: {why}. The job's logs tell what its process said; "
        "order a smaller batch or student, or retry the job once the cause is gone."
    )
    body = {**error.body(), "phase": phase, "blame": error.blame, "attempt": job.attempt}
    told = ended("failed", error.detail, "error", phase, {"code": error.code})
    events = [attempt_ended(job.attempt, why, cause), *told]
    _end(session, job, events, "failed", error={**body, "log_tail": tail(session, job.id)}, **counts)


def _end(session: Session, job: Job, events: Sequence[Note], status: str, **values: Any) -> None:
    values |= {"phases": phases.closed(job, status), **end(status)}
    owner_change(session, job.id, job.attempt, events=events, **values)


def _back(session: Session, job: Job, why: str, delay_s: float, *, cause: Cause, **counts: int) -> None:
    """Paused if its user wished that, else queued again."""
    status = "paused" if job.desired == "pause" else "queued"
    over = attempt_ended(job.attempt, why, cause)
    if delay_s:
        over = replace(over, data={**over.data, "retry_in_s": delay_s})
    told = [over, Note("job.status", status, data={"status": status})]
    owner_change(
        session,
        job.id,
        job.attempt,
        events=told,
        status=status,
        lease_owner=None,
        lease_expires_at=None,
        available_at=db_now(delay_s),
        preempted=why == LEAVING,
        deadline_at=None,
        runtime_left_s=_runtime_left_s(session, job),
        **counts,
    )


def _runtime_left_s(session: Session, job: Job) -> float | None:
    """What the attempt leaves of `max_runtime_s`. Nobody worked any more once its lease was over."""
    now = session.scalars(select(db_now())).one()
    if job.deadline_at is None or job.lease_expires_at is None:
        return None
    left: timedelta = job.deadline_at - min(now, job.lease_expires_at)
    return max(left.total_seconds(), 0.0)
