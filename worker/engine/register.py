"""The last phase: everything that leaves the job becomes a blob, and then the manifest that names them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.catalog import onnx_file
from app.catalog.spec import PinnedData
from app.services import models
from app.services.jobs import Json
from app.services.models import Checkpoint
from worker.engine.evaluate import Findings
from worker.engine.export import Exported
from worker.engine.fetch import Material
from worker.engine.markdown import markdown
from worker.engine.report import Report, build
from worker.engine.train import Taught
from worker.engine.validate import Order


@dataclass(frozen=True)
class Result:
    """What the job's last transaction writes. manifest: the sha256 of the checkpoint's stored manifest."""

    checkpoint: Checkpoint
    manifest: str
    artifacts: list[Json]
    outcome: Json
    usage: Json


def register(
    order: Order, material: Material, taught: Taught, findings: Findings, exported: list[Exported]
) -> Result:
    folder = order.folder / "export"
    names = sorted({name for one in exported for name in one.files})
    files = [_stored(order, folder / name, name) for name in names]
    checkpoint = _checkpoint(order, folder, exported, files)
    report = build(order, material, taught, findings, exported, files)
    _tell(order, report)
    artifacts = [
        _artifact(order, "report.json", "application/json", report.model_dump_json(indent=2)),
        _artifact(order, "report.md", "text/markdown", markdown(report)),
        _artifact(order, "rows.json", "application/json", _rows(findings)),
    ]
    manifest = order.parts.blobs.put([models.manifest(checkpoint)]).sha256
    return Result(checkpoint, manifest, artifacts, _outcome(report, taught), _usage(taught))


def _tell(order: Order, report: Report) -> None:
    """An event for each gate, and a warning when the alias stays where it is."""
    for gate in report.gates:
        passed = "passed" if gate.passed else "not passed"
        level: Literal["info", "warning"] = "info" if gate.passed else "warning"
        order.journal.note(
            f"gate {passed}: {gate.detail}", "gate.result", level, **gate.model_dump(mode="json")
        )
    alias = order.resolved.spec.output.alias
    if alias is not None and not all(gate.passed for gate in report.gates):
        order.journal.warn(
            "alias_not_moved",
            f"The alias {alias} stays where it is, as a gate was not passed. Look at the report, and move "
            "it by hand where the student is good enough.",
            alias=alias,
        )


def _rows(findings: Findings) -> str:
    told = {"object": "rows", "likened": findings.likened, "data": findings.parted}
    return json.dumps(told, indent=2, allow_nan=False)


def _checkpoint(order: Order, folder: Path, exported: list[Exported], files: list[Json]) -> Checkpoint:
    resolved, architecture = order.resolved, order.resolved.spec.student.architecture
    weights = any(one.form.kind == "safetensors" for one in exported)
    return Checkpoint(
        source="job",
        format=architecture.format if weights else "onnx",
        family=architecture.kind if weights else "onnx",
        task=order.task.kind,
        labels=resolved.labels,
        input=resolved.input.model_dump(mode="json"),
        preprocessing=resolved.preprocessing,
        gives=sorted(architecture.gives),
        details=_details(order, folder) if weights else _black_box(order, exported),
        parameters=resolved.parameters,
        files=files,
        lineage=_lineage(order),
    )


def _details(order: Order, folder: Path) -> Json:
    architecture = order.resolved.spec.student.architecture
    if architecture.format != "huggingface":
        return {"config": architecture.model_dump(mode="json")}
    config = json.loads((folder / "config.json").read_bytes())
    preprocessor = folder / "preprocessor_config.json"
    return {
        "config": {key: value for key, value in config.items() if key not in ("id2label", "label2id")},
        "preprocessor": json.loads(preprocessor.read_bytes()) if preprocessor.exists() else None,
    }


def _black_box(order: Order, exported: list[Exported]) -> Json:
    """A student that left as ONNX alone can still teach, by its answers."""
    name = onnx_file.INPUTS[order.task.modality]
    return {"file": exported[0].files[0], "input": name, "output": "logits", "output_kind": "logits"}


def _lineage(order: Order) -> Json:
    resolved, data = order.resolved, order.resolved.data
    pins = [("train", data.train), ("validation", data.validation), ("test", data.test)]
    pins += [("unlabeled", pin) for pin in data.unlabeled]
    return {
        "job": order.job_id,
        "teachers": [
            {"version_id": teacher.version_id, "reference": teacher.reference, "digest": teacher.digest}
            for teacher in resolved.teachers
        ],
        "datasets": [
            {"role": role, "reference": pin.reference, "dataset_id": pin.dataset_id, "sha256": pin.sha256}
            for role, pin in pins
            if isinstance(pin, PinnedData)
        ],
    }


def _outcome(report: Report, taught: Taught) -> Json:
    student = next(column for column in report.columns if column.name == "student")
    return {
        "gates": [gate.model_dump(mode="json") for gate in report.gates],
        "verdict": report.verdict,
        "stopped_by": taught.student.stopped_by,
        "best_step": taught.student.best_step,
        "metrics": {name: one.value for name, one in student.metrics.items()},
        "gap_recovered": None if report.gap_recovered is None else report.gap_recovered.value,
    }


def _usage(taught: Taught) -> Json:
    runs = [run for several in (*taught.students.values(), taught.controls) for run in several]
    return {
        "training_s": round(sum(run.seconds for run in runs), 3),
        "steps": sum(run.steps for run in runs),
        "samples": sum(run.samples for run in runs),
    }


def _stored(order: Order, path: Path, name: str) -> Json:
    blob = order.parts.blobs.put_file(path)
    return {"path": name, "sha256": blob.sha256, "size": blob.size}


def _artifact(order: Order, name: str, media_type: str, text: str) -> Json:
    blob = order.parts.blobs.put([text.encode()])
    return {"name": name, "sha256": blob.sha256, "size": blob.size, "media_type": media_type}
