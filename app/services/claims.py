"""Who is next: which queued job a worker takes, and how many go before another."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Job, MetricPoint
from app.failpoints import failpoint
from app.services.transitions import PHASES, Note, change, pending


def claim(session: Session, owner: str, accelerators: Sequence[str], lease_s: float) -> Job | None:
    """Takes the next job, by priority and then by age; None when nothing is eligible."""
    candidate = (
        select(Job.id)
        .where(*eligible(accelerators))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    job = change(
        session,
        candidate,
        Job.status == "queued",
        status="running",
        attempt=Job.attempt + 1,
        lease_owner=owner,
        lease_expires_at=db_now(lease_s),
        started_at=func.coalesce(Job.started_at, db_now()),
        phases=[pending(name) for name in PHASES],
        progress={},
        best=None,
    )
    if job is None:
        return None
    session.execute(delete(MetricPoint).where(MetricPoint.job_id == job.id))  # the attempt starts over
    max_runtime_s = job.resolved["spec"]["resources"]["max_runtime_s"]
    failpoint("claim.before_commit")
    started = Note("attempt.started", f"attempt {job.attempt} started", data={"attempt": job.attempt})
    running = Note("job.status", "running", data={"status": "running", "attempt": job.attempt})
    return change(
        session,
        job.id,
        events=[running, started],
        deadline_at=func.coalesce(Job.deadline_at, db_now(max_runtime_s)),
    )


def eligible(accelerators: Sequence[str]) -> list[ColumnElement[bool]]:
    """What makes a job ready to be claimed by a worker with these accelerators."""
    return [
        Job.status == "queued",
        Job.available_at <= db_now(),
        Job.accelerator.in_(("auto", *accelerators)),
    ]


def ahead(session: Session, job: Job) -> int:
    """How many queued jobs go first."""
    earlier = or_(
        Job.priority > job.priority,
        and_(Job.priority == job.priority, Job.created_at < job.created_at),
        and_(Job.priority == job.priority, Job.created_at == job.created_at, Job.id < job.id),
    )
    count = select(func.count()).select_from(Job).where(Job.status == "queued", earlier)
    return session.scalar(count) or 0
