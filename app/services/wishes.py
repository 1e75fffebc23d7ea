"""What users do with a job that is there: cancel, pause, resume, delete.

A job that waits changes at once. Of one that runs, `desired` says what its user wants, and its worker hears
of it at the next renewal of its lease.
"""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.dialect import TERMINAL, db_now
from app.db.tables import Job
from app.errors import NotFound, StateConflict, shown
from app.services import quotas
from app.services.transitions import Note, change, end, ended, held

_STOPPING = {"cancel": "being cancelled", "finish": "being stopped"}


def cancel(session: Session, project_id: str, job_id: str, mode: Literal["discard", "keep"]) -> Job:
    """Ends a waiting job at once; asks a running one to stop, with what it has learned dropped or kept.

    A waiting job with a checkpoint that is to be kept is queued, and its next attempt finishes from there.
    Raises NotFound, and StateConflict when the job has ended or is being discarded already.
    """
    job = held(session, project_id, job_id)
    wish = "cancel" if mode == "discard" else "finish"
    waits = job.status in ("queued", "paused")
    if job.desired == wish and job.status in ("queued", "running"):
        return job
    if waits and mode == "keep" and job.checkpoint_step:
        kept = f"to be finished from its checkpoint at step {job.checkpoint_step}"
        told = Note("job.status", kept, data={"status": "queued", "desired": wish})
        return _changed(session, job, [told], status="queued", desired=wish, available_at=db_now())
    if waits:
        return _changed(session, job, ended("cancelled", "cancelled while it waited"), **end("cancelled"))
    if job.status == "running" and job.desired != "cancel":
        asked = f"asked to {'stop' if mode == 'discard' else 'stop and keep the best so far'}"
        return _changed(session, job, [_asked(asked, wish)], desired=wish)
    raise StateConflict(
        f"Job {job_id} is {_standing(job)}: it cannot be cancelled with mode {mode!r} any more."
    )


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Sets a waiting job aside at once; asks a running one to save a checkpoint and leave.

    Raises NotFound, and StateConflict when the job has ended or is being stopped.
    """
    job = held(session, project_id, job_id)
    if job.status in TERMINAL or job.desired in _STOPPING:
        raise StateConflict(f"Job {job_id} is {_standing(job)}: it cannot be paused any more.")
    if job.desired == "pause":
        return job
    if job.status == "running":
        return _changed(session, job, [_asked("asked to pause", "pause")], desired="pause")
    told = Note("job.status", "paused", data={"status": "paused"})
    return _changed(session, job, [told], status="paused", desired="pause")


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Queues a paused job again; of one that is still pausing the wish is taken back.

    Raises NotFound, StateConflict when the job is not paused, and QuotaExceeded when it cannot be queued now.
    """
    quotas.hold(session, project_id)
    job = held(session, project_id, job_id)
    if job.desired != "pause" or job.status in TERMINAL:
        raise StateConflict(f"Job {job_id} is {_standing(job)}: only a paused job can be resumed.")
    if job.status == "running":
        return _changed(session, job, [_asked("asked to go on", "run")], desired="run")
    quotas.admit_job(session, project_id, job.accelerator)
    told = Note("job.status", "queued", data={"status": "queued"})
    return _changed(session, job, [told], status="queued", desired="run", available_at=db_now())


def remove(session: Session, project_id: str, job_id: str) -> None:
    """Deletes an ended job with its events, metrics and checkpoints; its model version stays.

    Raises NotFound, StateConflict.
    """
    gone = delete(Job).where(Job.id == job_id, Job.project_id == project_id, Job.status.in_(TERMINAL))
    if session.execute(gone.returning(Job.id)).first() is not None:
        return
    if session.execute(select(Job.id).where(Job.id == job_id, Job.project_id == project_id)).first() is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    raise StateConflict(f"Job {job_id} has not ended: cancel it first, then delete it.")


def _changed(session: Session, job: Job, events: Sequence[Note], **values: Any) -> Job:
    changed = change(session, job.id, Job.status == job.status, events=events, **values)
    assert changed is not None  # its row is held
    return changed


def _asked(message: str, wish: str) -> Note:
    return Note("job.status", message, data={"desired": wish})


def _standing(job: Job) -> str:
    return job.status if job.status in TERMINAL else _STOPPING.get(job.desired, job.status)
