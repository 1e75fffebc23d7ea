"""A student as a model version: what it is, its files as they were exported, and where it comes from."""

import json
from collections.abc import Sequence
from pathlib import Path

from app.catalog import onnx_file
from app.catalog.base import Architecture
from app.catalog.spec import PinnedData
from app.services import hops
from app.services.jobs import Json
from app.services.models import Checkpoint
from worker.engine.export import Exported
from worker.engine.validate import Order

STUDENT = "student"


def checkpoint(
    order: Order, folder: Path, exported: Sequence[Exported], architecture: Architecture, lineage: Json
) -> Checkpoint:
    """folder: where the exported files lie; they become blobs here."""
    resolved = order.resolved
    weights = any(one.form.kind == "safetensors" for one in exported)
    names = sorted({name for one in exported for name in one.files})
    return Checkpoint(
        source="job",
        format=architecture.format if weights else "onnx",
        family=architecture.kind if weights else "onnx",
        task=order.task.kind,
        labels=resolved.labels,
        input=resolved.input.model_dump(mode="json"),
        preprocessing=resolved.preprocessing,
        gives=sorted(architecture.gives) if weights else ["logits"],
        details=_details(folder, architecture) if weights else _black_box(order, exported),
        parameters=architecture.parameters(resolved.input, len(resolved.labels)),
        files=[_stored(order, folder / name, name) for name in names],
        lineage=lineage,
    )


def lineage(order: Order, column: str, made: dict[str, Json]) -> Json:
    """made: the versions of students on the way, by role. Those that taught this one stand first, and the
    ordered teachers where they taught it or where it is the job's own."""
    resolved, data = order.resolved, order.resolved.data
    pins = [("train", data.train), ("validation", data.validation), ("test", data.test)]
    pins += [("unlabeled", pin) for pin in data.unlabeled]
    ordered = [
        {"version_id": teacher.version_id, "reference": teacher.reference, "digest": teacher.digest}
        for teacher in resolved.teachers
    ]
    before = [made[hops.role_of(name)] for name in _taught_by(order, column, made)]
    return {
        "job": order.job_id,
        "role": hops.role_of(column),
        "teachers": [*before, *(ordered if column == STUDENT or not before else [])],
        "datasets": [
            {"role": role, "reference": pin.reference, "dataset_id": pin.dataset_id, "sha256": pin.sha256}
            for role, pin in pins
            if isinstance(pin, PinnedData)
        ],
    }


def _taught_by(order: Order, column: str, made: dict[str, Json]) -> list[str]:
    """The students on the way from whom this one learned: its company, if it is the job's own, or those of
    the last hop before it. A job that was ended early has not had all of its hops."""
    spec = order.resolved.spec
    done = [
        [name for name, _ in hop if hops.role_of(name) in made or name == column]
        for hop in spec.scheme.hops(spec.student.architecture)
    ]
    place = next(place for place, names in enumerate(done) if column in names)
    company = [name for name in done[place] if column == STUDENT and name != STUDENT]
    return company or next((names for names in reversed(done[:place]) if names), [])


def _details(folder: Path, architecture: Architecture) -> Json:
    if architecture.format != "huggingface":
        return {"config": architecture.model_dump(mode="json")}
    config = json.loads((folder / "config.json").read_bytes())
    preprocessor = folder / "preprocessor_config.json"
    return {
        "config": {key: value for key, value in config.items() if key not in ("id2label", "label2id")},
        "preprocessor": json.loads(preprocessor.read_bytes()) if preprocessor.exists() else None,
    }


def _black_box(order: Order, exported: Sequence[Exported]) -> Json:
    """A student that left as ONNX alone can still teach, by its answers."""
    name = onnx_file.INPUTS[order.task.modality]
    return {"file": exported[0].files[0], "input": name, "output": "logits", "output_kind": "logits"}


def _stored(order: Order, path: Path, name: str) -> Json:
    blob = order.parts.blobs.put_file(path)
    return {"path": name, "sha256": blob.sha256, "size": blob.size}
