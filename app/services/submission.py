"""How a job comes to be: its row, its labels, what it points at and its first event, in one transaction."""

from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.catalog.spec import PinnedData, Resolved
from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import Idempotency, Job, JobLabel, JobReference
from app.errors import IdempotencyKeyReused
from app.services.transitions import PHASES, Note, pending, write_events

IDEMPOTENCY_S = 86_400

Json = dict[str, Any]


def submit(
    session: Session,
    project_id: str,
    resolved: Resolved,
    *,
    sent: Json,
    digest: str,
    idempotency_key: str | None = None,
) -> Job:
    """A queued job, or the one that the same Idempotency-Key made in the last 24 hours.

    sent: the spec as it came; digest: its sha256. Raises IdempotencyKeyReused for another body under a known key.
    """
    if idempotency_key is None:
        return _insert(session, project_id, resolved, sent, digest)
    session.execute(
        delete(Idempotency).where(
            Idempotency.project_id == project_id, Idempotency.created_at < db_now(-IDEMPOTENCY_S)
        )
    )
    known = accepted(session, project_id, idempotency_key, digest)
    if known is not None:
        return known
    try:
        with session.begin_nested():
            job = _insert(session, project_id, resolved, sent, digest)
            session.add(
                Idempotency(project_id=project_id, key=idempotency_key, body_digest=digest, job_id=job.id)
            )
            return job
    except IntegrityError:  # the same key arrived twice at once, and the other one won
        known = accepted(session, project_id, idempotency_key, digest)
        if known is None:
            raise
        return known


def accepted(session: Session, project_id: str, key: str, digest: str) -> Job | None:
    """The job that this Idempotency-Key stands for. Raises IdempotencyKeyReused when it was given with another spec."""
    row = session.get(Idempotency, (project_id, key), populate_existing=True)
    if row is None:
        return None
    if row.body_digest != digest:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {key[:64]!r} was used for another job spec. Send a new key with a new spec."
        )
    return session.get_one(Job, row.job_id)


def _insert(session: Session, project_id: str, resolved: Resolved, sent: Json, digest: str) -> Job:
    spec = resolved.spec
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        name=spec.name or f"{spec.output.model}",
        task=spec.task.kind,
        spec=sent,
        resolved=resolved.model_dump(mode="json"),
        spec_digest=digest,
        priority=spec.resources.priority,
        accelerator=spec.resources.accelerator,
        phases=[pending(name) for name in PHASES],
        progress={},
        usage={},
        artifacts=[],
        last_seq=1,
    )
    session.add(job)
    session.flush()
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in spec.labels.items())
    session.add_all(
        JobReference(job_id=job.id, target_id=target, role=role) for target, role in _references(resolved)
    )
    write_events(session, job.id, 1, [Note("job.created", "created", data={"status": "queued"})])
    session.refresh(job)
    return job


def _references(resolved: Resolved) -> set[tuple[str, str]]:
    data = resolved.data
    pinned = {
        "train": [data.train],
        "test": [data.test],
        "unlabeled": data.unlabeled,
        "validation": [data.validation],
    }
    uses = {
        (pin.dataset_id, role) for role, pins in pinned.items() for pin in pins if isinstance(pin, PinnedData)
    }
    return uses | {(teacher.version_id, "teacher") for teacher in resolved.teachers}
