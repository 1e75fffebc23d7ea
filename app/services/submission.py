"""How a job comes to be: its row, its labels, what it points at and its first event, in one transaction."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy.orm import Session

from app import traces
from app.catalog.spec import JobSpec, PinnedData, Resolved
from app.db.ids import new_id
from app.db.tables import Job, JobLabel, JobReference
from app.services import quotas
from app.services.idempotency import once
from app.services.phases import PHASES, pending
from app.services.planning.plan import resolve
from app.services.transitions import Note, write_events
from app.settings import Settings

Json = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A spec as it was sent, and what it means."""

    resolved: Resolved
    sent: Json
    digest: str


def submit(
    session: Session,
    settings: Settings,
    project_id: str,
    spec: JobSpec,
    idempotency_key: str | None = None,
    *,
    parent_id: str | None = None,
) -> Job:
    """A queued job, or the one that the same Idempotency-Key made in the last 24 hours.

    parent_id: the job that it is a changed copy of. Raises IdempotencyKeyReused for another spec under a
    known key, and what plan.resolve raises.
    """
    sent = spec.model_dump(mode="json", exclude_unset=True)
    digest = sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()

    def make() -> Job:
        with traces.span("plan"):
            order = Order(resolve(session, settings, project_id, spec), sent, digest)
        return insert(session, project_id, order, parent_id=parent_id)

    if idempotency_key is None:
        return make()
    row = once(session, project_id, idempotency_key, digest, lambda: {"job_id": make().id})
    return session.get_one(Job, row.job_id)


def insert(session: Session, project_id: str, order: Order, **standing: Any) -> Job:
    """standing: columns of a job that does not begin with nothing. Raises QuotaExceeded."""
    resolved, spec = order.resolved, order.resolved.spec
    quotas.admit_job(session, project_id, spec.resources.accelerator)
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        name=spec.name or f"{spec.output.model}",
        task=spec.task.kind,
        spec=order.sent,
        resolved=resolved.model_dump(mode="json"),
        spec_digest=order.digest,
        traceparent=traces.current(),
        priority=spec.resources.priority,
        accelerator=spec.resources.accelerator,
        devices=spec.resources.devices,
        runtime_left_s=spec.resources.max_runtime_s,
        phases=[pending(name) for name in PHASES],
        progress={},
        usage={},
        last_seq=1,
        artifact_bytes=sum(artifact["size"] for artifact in standing.get("artifacts", ())),
        **{"artifacts": [], **standing},
    )
    session.add(job)
    session.flush()
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in spec.labels.items())
    session.add_all(
        JobReference(job_id=job.id, target_id=target, role=role) for target, role in _references(resolved)
    )
    told = {"status": "queued"} | ({"parent": job.parent_id} if job.parent_id else {})
    write_events(session, job.id, 1, [Note("job.created", "created", data=told)])
    return job


def _references(resolved: Resolved) -> set[tuple[str, str]]:
    data = resolved.data
    uses = [(data.train, "train"), (data.validation, "validation"), (data.test, "test")]
    uses += [(one, "unlabeled") for one in data.unlabeled]
    datasets = {(pin.dataset_id, role) for pin, role in uses if isinstance(pin, PinnedData)}
    start = resolved.initialize
    models = {(start.version_id, "initialize")} if start else set()
    return datasets | models | {(teacher.version_id, "teacher") for teacher in resolved.teachers}
