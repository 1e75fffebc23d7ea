"""New jobs made of old ones, which never change: `retry` goes on where one failed, `clone` orders another.

A retry is the same order with the same pins, and starts from the old job's last checkpoint and from the
students that it made on its way. A clone is the order as it was sent, changed, and planned anew.
"""

from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog.spec import Resolved
from app.db.tables import Job, JobReference
from app.errors import NotFound, StateConflict, shown
from app.services import checkpoints, quotas, submission
from app.services.idempotency import once
from app.services.merge_patch import patched
from app.services.transitions import held

Json = dict[str, Any]


def retry(session: Session, project_id: str, job_id: str, idempotency_key: str | None = None) -> Job:
    """A queued job that goes on where the named one ended, or the one that the same key made.

    Raises NotFound, StateConflict unless the job failed or was cancelled, QuotaExceeded, and
    IdempotencyKeyReused.
    """
    if idempotency_key is None:
        return _again(session, project_id, job_id)
    digest = sha256(f"retry {job_id}".encode()).hexdigest()

    def make() -> dict[str, str]:
        return {"job_id": _again(session, project_id, job_id).id}

    return session.get_one(Job, once(session, project_id, idempotency_key, digest, make).job_id)


def changed(session: Session, project_id: str, job_id: str, overrides: Json) -> Json:
    """The job's spec as it was sent, changed by a merge patch (RFC 7396); it is not checked yet.

    Raises NotFound.
    """
    spec = session.scalar(select(Job.spec).where(Job.id == job_id, Job.project_id == project_id))
    if spec is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    patch: Json = patched(spec, overrides)
    return patch


def _again(session: Session, project_id: str, job_id: str) -> Job:
    quotas.hold(session, project_id)
    old = held(session, project_id, job_id)
    if old.status not in ("failed", "cancelled"):
        way = "clone it" if old.status == "succeeded" else "wait for its end, or cancel it first"
        raise StateConflict(
            f"Job {job_id} is {old.status}: only what failed or was cancelled can be retried; {way}."
        )
    newest = next(iter(checkpoints.newest_first(session, old.id)), None)  # those of long ago are swept
    order = submission.Order(Resolved.model_validate(old.resolved), old.spec, old.spec_digest)
    job = submission.insert(
        session,
        project_id,
        order,
        parent_id=old.id,
        checkpoint_manifest=newest.manifest if newest else None,
        checkpoint_step=newest.step if newest else 0,
        adjustments=old.adjustments,
        artifacts=old.artifacts,
    )
    checkpoints.inherit(session, old.id, job.id)
    for used in session.scalars(select(JobReference).where(JobReference.job_id == old.id)).all():
        session.merge(JobReference(job_id=job.id, target_id=used.target_id, role=used.role))
    session.flush()
    return job
