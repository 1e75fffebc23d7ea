"""Where a job's training can be taken up again: the last two places, and the best one."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.db.tables import Job, JobCheckpoint
from app.errors import NotFound, shown
from app.services.transitions import Note, owner_change, owner_row

KEPT = 2  # the newest ones; the best one besides

Json = dict[str, Any]


def save(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    step: int,
    manifest: str,
    size: int,
    best: bool,
    metrics: Json,
    seconds: float = 0.0,
    void: Sequence[str] = (),
) -> None:
    """Its blobs are stored already. Saved again after a lost reply it changes nothing.

    manifest: the sha256 of the blob that lists the files. best: better than any before it. seconds: what
    storing it took. void: manifests from which this attempt could not go on; they make room, and where the
    newest is one of them the steps begin again from here. A checkpoint is progress: the count of attempts
    without any starts over. Raises LeaseLost, and ValueError for a step that is not beyond the newest one.
    """
    job = owner_row(session, job_id, attempt)
    if (job.checkpoint_step, job.checkpoint_manifest) == (step, manifest):
        return
    if step <= job.checkpoint_step and job.checkpoint_manifest not in void:
        raise ValueError(f"a checkpoint at step {step} cannot follow the one at step {job.checkpoint_step}")
    told = {"step": step, "size": size, "best": best, "metrics": metrics, "seconds": round(seconds, 3)}
    if dropped := _drop(session, job_id, void):
        told["instead_of"] = dropped
    owner_change(
        session,
        job_id,
        attempt,
        or_(Job.checkpoint_step < step, Job.checkpoint_manifest.in_(void)),
        events=[Note("checkpoint.saved", f"checkpoint at step {step}", phase="train", data=told)],
        checkpoint_manifest=manifest,
        checkpoint_step=step,
        no_progress=0,
    )
    if best:
        session.execute(update(JobCheckpoint).where(JobCheckpoint.job_id == job_id).values(best=False))
    saved = JobCheckpoint(
        job_id=job_id, step=step, attempt=attempt, manifest=manifest, size=size, best=best, metrics=metrics
    )
    session.add(saved)
    session.flush()
    _forget_older(session, job_id)


def newest_first(session: Session, job_id: str) -> list[JobCheckpoint]:
    """Those that are kept. Whoever finds one damaged takes the next."""
    mine = select(JobCheckpoint).where(JobCheckpoint.job_id == job_id)
    return list(session.scalars(mine.order_by(JobCheckpoint.step.desc())))


def list_(session: Session, project_id: str, job_id: str) -> list[JobCheckpoint]:
    """The same for the job's owner. Raises NotFound."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.project_id == project_id)) is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    return newest_first(session, job_id)


def inherit(session: Session, job_id: str, heir_id: str) -> None:
    """A job that retries another starts from that one's checkpoints. The heir's row names the newest."""
    for old in newest_first(session, job_id):
        session.add(
            JobCheckpoint(
                job_id=heir_id,
                step=old.step,
                attempt=0,
                manifest=old.manifest,
                size=old.size,
                best=old.best,
                metrics=old.metrics,
            )
        )
    session.flush()


def _drop(session: Session, job_id: str, void: Sequence[str]) -> list[int]:
    """Their steps."""
    named = delete(JobCheckpoint).where(JobCheckpoint.job_id == job_id, JobCheckpoint.manifest.in_(void))
    return sorted(session.scalars(named.returning(JobCheckpoint.step))) if void else []


def _forget_older(session: Session, job_id: str) -> None:
    steps = [saved.step for saved in newest_first(session, job_id)[:KEPT]]
    spare = or_(JobCheckpoint.step.in_(steps), JobCheckpoint.best)
    session.execute(delete(JobCheckpoint).where(JobCheckpoint.job_id == job_id, ~spare))
