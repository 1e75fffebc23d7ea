"""Students that a job trains on its way to its own: each is a model version as soon as its hop is done.

A hop that is done is told by an artifact in the job's row, by which a later attempt knows not to do it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog.spec import with_ending
from app.db.tables import Job, JobReference, Model, ModelVersion
from app.services import models
from app.services.models import Checkpoint
from app.services.transitions import Note, owner_change, owner_row

OF_THE_DATA = frozenset({"train", "validation", "test", "unlabeled"})  # roles in a job
OF_THE_ORDER = OF_THE_DATA | {"teacher", "initialize"}  # all others are students on the way

Json = dict[str, Any]


@dataclass(frozen=True)
class Hop:
    """students: those that become versions, by column. artifact: {name, sha256, size, media_type}."""

    students: Mapping[str, Checkpoint]
    artifact: Json


def role_of(column: str) -> str:
    """Of a student in its job, as it stands in references, lineages and names."""
    return column.replace("_", "-")


def model_of(output: str, column: str) -> str:
    """The name under which a student on the way is registered: the job's own and its role."""
    return with_ending(output, f"-{role_of(column)}")


def finish(session: Session, job_id: str, attempt: int, output: str, hop: Hop) -> None:
    """Registers the hop's students and refers to them from the job. Raises LeaseLost."""
    job = owner_row(session, job_id, attempt)
    events = []
    for column, checkpoint in hop.students.items():
        name = model_of(output, column)
        version = models.register(session, job.project_id, name, checkpoint)
        session.merge(JobReference(job_id=job_id, target_id=version.id, role=role_of(column)))
        reference = f"model:{name}@{version.version}"
        told = {"role": role_of(column), "model": reference, "version_id": version.id}
        events.append(Note("artifact.ready", f"{role_of(column)} is {reference}", phase="train", data=told))
    artifacts = [*job.artifacts, hop.artifact]
    owner_change(session, job_id, attempt, events=events, artifacts=artifacts)


def artifact(session: Session, job_id: str, name: str) -> str | None:
    """The sha256 of what an earlier attempt said of a hop."""
    told = session.get_one(Job, job_id, populate_existing=True).artifacts
    return next((one["sha256"] for one in told if one["name"] == name), None)


def made(session: Session, job_id: str) -> dict[str, Json]:
    """{version_id, reference, digest} of the versions that the job has made on its way, by role."""
    rows = session.execute(
        select(JobReference.role, ModelVersion, Model.name)
        .join(ModelVersion, ModelVersion.id == JobReference.target_id)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(JobReference.job_id == job_id, JobReference.role.not_in(OF_THE_ORDER))
        .order_by(ModelVersion.id)
    )
    return {
        role: {
            "version_id": version.id,
            "reference": f"model:{name}@{version.version}",
            "digest": version.digest,
        }
        for role, version, name in rows
    }
