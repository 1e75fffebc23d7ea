"""The last phase: everything that leaves the job becomes a blob, and then the manifest that names them."""

import json
from dataclasses import dataclass
from typing import Literal

from app.services import hops, models
from app.services.jobs import Json
from app.services.models import Checkpoint
from worker.engine import versions
from worker.engine.export import Exported
from worker.engine.fetch import Material
from worker.engine.judging.evaluate import Findings
from worker.engine.judging.markdown import markdown
from worker.engine.judging.report import Report, build
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
    made = {hops.role_of(column): version for column, version in taught.versions.items()}
    checkpoint = versions.checkpoint(
        order,
        order.folder / "export",
        exported,
        order.resolved.spec.student.architecture,
        versions.lineage(order, versions.STUDENT, made),
    )
    report = build(order, material, taught, findings, exported, checkpoint.files)
    _tell(order, report)
    artifacts = [
        _artifact(order, "report.json", "application/json", report.model_dump_json(indent=2)),
        _artifact(order, "report.md", "text/markdown", markdown(report)),
        _artifact(order, "rows.json", "application/json", _rows(findings)),
    ]
    manifest = order.parts.blobs.put([models.manifest(checkpoint)]).sha256
    return Result(checkpoint, manifest, artifacts, _outcome(report, taught), _usage(order, taught))


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


def _outcome(report: Report, taught: Taught) -> Json:
    student = next(column for column in report.columns if column.name == "student")
    return {
        "gates": [gate.model_dump(mode="json") for gate in report.gates],
        "verdict": report.verdict,
        "stopped_by": taught.student.stopped_by,
        "best_step": taught.student.best_step,
        "metrics": {name: one.value for name, one in student.metrics.items()},
        "gap_recovered": None if report.gap_recovered is None else report.gap_recovered.value,
        "versions": {column: version["reference"] for column, version in taught.versions.items()},
    }


def _usage(order: Order, taught: Taught) -> Json:
    """Those who are trained together take their time once."""
    spec = order.resolved.spec
    last = [hop[-1][0] for hop in spec.scheme.hops(spec.student.architecture)]
    runs = [*taught.controls, *(run for name in last for run in taught.students.get(name, []))]
    return {
        "training_s": round(sum(run.seconds for run in runs), 3),
        "steps": sum(run.steps for run in runs),
        "samples": sum(run.samples for run in runs),
    }


def _artifact(order: Order, name: str, media_type: str, text: str) -> Json:
    blob = order.parts.blobs.put([text.encode()])
    return {"name": name, "sha256": blob.sha256, "size": blob.size, "media_type": media_type}
