"""What a hop of a scheme came to: kept when it is done, so that nothing of it is lost or done again.

Its students but the job's own become model versions. The best states of all of them are blobs, named in an
artifact of the job, from which a later attempt goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import fields

from safetensors import torch as safetensors

from app.catalog.base import Architecture
from app.services import hops, models
from app.services.hops import Hop
from app.services.jobs import Json
from app.services.models import Checkpoint
from worker.engine.distill import Trained
from worker.engine.export import samples, write_all
from worker.engine.fetch import Material
from worker.engine.validate import Order
from worker.engine.versions import STUDENT, checkpoint, lineage

_TOLD = [one.name for one in fields(Trained) if one.name not in ("state", "architecture")]


def keep(order: Order, material: Material, place: int, students: dict[str, Trained]) -> None:
    """Raises ExportFailed, ExportMismatch, and LeaseLost when another attempt owns the job."""
    output = order.resolved.spec.output.model
    assert output is not None  # the plan fills it in
    with order.parts.sessions.read() as session:
        made = hops.made(session, order.job_id)
    versions = {
        column: _version(order, material, column, trained, made)
        for column, trained in students.items()
        if column != STUDENT
    }
    told = {column: _told(order, trained) for column, trained in students.items()}
    blob = order.parts.blobs.put([json.dumps(told, sort_keys=True).encode()])
    artifact = {
        "name": _name(place),
        "sha256": blob.sha256,
        "size": blob.size,
        "media_type": "application/json",
    }
    order.journal.finish_hop(output, Hop(versions, artifact))


def found(order: Order, place: int, hop: Sequence[tuple[str, Architecture]]) -> dict[str, Trained] | None:
    """What `keep` kept in an earlier attempt at the job."""
    with order.parts.sessions.read() as session:
        sha256 = hops.artifact(session, order.job_id, _name(place))
    if sha256 is None:
        return None
    told = json.loads(b"".join(order.parts.blobs.read(sha256)))
    return {
        column: Trained(**_read(order, told[column]), architecture=architecture)
        for column, architecture in hop
    }


def versions(order: Order) -> dict[str, Json]:
    """{version_id, reference, digest} of all students on the way, by column."""
    with order.parts.sessions.read() as session:
        made = hops.made(session, order.job_id)
    spec = order.resolved.spec
    columns = [name for name, _ in spec.scheme.students(spec.student.architecture)]
    return {name: made[hops.role_of(name)] for name in columns if hops.role_of(name) in made}


def _version(
    order: Order, material: Material, column: str, trained: Trained, made: dict[str, Json]
) -> Checkpoint:
    assert trained.architecture is not None
    student = order.new_student(trained.architecture, trained.seed)
    student.load_state_dict(trained.state)
    folder = order.folder / "hops" / column
    sample, rows = samples(order, material)
    exported = write_all(order, student.cpu().eval(), sample, rows, folder, trained.architecture)
    version = checkpoint(order, folder, exported, trained.architecture, lineage(order, column, made))
    order.parts.blobs.put([models.manifest(version)])
    return version


def _told(order: Order, trained: Trained) -> Json:
    state = order.parts.blobs.put([safetensors.save(trained.state)])
    return {"state": state.sha256, **{name: getattr(trained, name) for name in _TOLD}}


def _read(order: Order, told: Json) -> Json:
    return {**told, "state": safetensors.load(b"".join(order.parts.blobs.read(told["state"])))}


def _name(place: int) -> str:
    return f"hop-{place + 1}.json"
