"""`job:ID/checkpoint@best` as a reference to a model: the student that the job has made."""

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Job
from app.errors import Fault, ReferenceNotReady, UnknownReference, shown

JOB = "job:"


def identify(session: Session, project_id: str, reference: str) -> str:
    """The version's id. `best` is what a succeeded job registered; all else is no model, for a checkpoint
    holds a training, whose weights nobody has evaluated, compared or exported.

    Raises UnknownReference, and ReferenceNotReady, which says what to do.
    """
    found = re.fullmatch(r"job:([^/]+)/checkpoint@(best|last)", reference)
    job = None
    if found is not None:
        job = session.scalar(select(Job).where(Job.id == found[1], Job.project_id == project_id))
    if found is None or job is None:
        detail = f"There is no job {shown(found[1] if found else reference)}."
        fault = Fault("", "unknown_reference", detail, "write job:ID/checkpoint@best with the id of a job")
        raise UnknownReference(f"{shown(reference, 100)} points at nothing: {detail}", fault)
    if found[2] == "best" and job.output_version_id is not None:
        return job.output_version_id
    raise _not_ready(reference, job)


def _not_ready(reference: str, job: Job) -> ReferenceNotReady:
    if job.status == "succeeded":
        why, fix = "the last state of a training is no model", "write @best: the student that the job made"
    elif job.ended_at is None:
        why = f"job {job.id} is {job.status}, and has made no model yet"
        fix = "wait for its end, or cancel it with mode keep, then write @best"
    else:
        why = f"job {job.id} is {job.status}, and made no model"
        fix = "retry it: the new job goes on from the checkpoint" if job.checkpoint_step else "retry it"
    return ReferenceNotReady(
        f"{shown(reference, 100)} cannot be used: {why}", Fault("", "reference_not_ready", why, fix)
    )
