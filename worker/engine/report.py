"""The report: what the student is worth, with the evidence. report.json is this form."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from app.catalog.base import Frozen
from app.catalog.spec import PinnedData, ResolvedData
from worker.engine.distill import Trained
from worker.engine.evaluate import Findings
from worker.engine.export import Exported, Latency
from worker.engine.fetch import Material
from worker.engine.metrics import ClassScore, Interval
from worker.engine.train import Taught
from worker.engine.validate import Order

LIBRARIES = ("stillhouse", "torch", "transformers", "onnx", "onnxruntime", "scikit-learn", "scipy", "numpy")

Json = dict[str, Any]


class Column(Frozen):
    """One of those that are compared, over n rows. classes: worst first. parameters: 0 where unknown."""

    name: str
    about: str
    parameters: int
    n: int
    metrics: dict[str, Interval]
    classes: list[ClassScore]


class Difference(Frozen):
    """`column` minus `minus`, over the same rows."""

    column: str
    minus: str
    metrics: dict[str, Interval]


class Run(Frozen):
    """How a student was trained. seconds: with the validations."""

    steps: int
    total_steps: int
    best_step: int
    best: dict[str, float]
    stopped_by: Literal["epochs", "early_stopping", "user"]
    seconds: float
    samples_per_s: float


class ExportRow(Frozen):
    """difference: the largest of a logit from the student's. agreement: share of rows with its first choice.

    accuracy: null without labels. tolerance: null for a lossy format. size: bytes of its files.
    """

    kind: str
    files: list[Json]
    size: int
    runtime: Literal["onnxruntime", "torch"]
    compared_rows: int
    accuracy: float | None
    difference: float
    tolerance: float | None
    agreement: float
    latency: list[Latency]


class Report(Frozen):
    """metric: what the verdict is about. split: whose rows were answered. labeled: whether they have any.

    date: when it was made, in UTC.
    """

    object: Literal["report"] = "report"
    job: str
    date: str
    verdict: str
    metric: str
    split: str
    rows: int
    labeled: bool
    columns: list[Column]
    differences: list[Difference]
    gap_recovered: Interval | None
    exports: list[ExportRow]
    training: dict[str, Run]
    data: dict[str, int]
    notes: list[str]
    provenance: Json


def build(
    order: Order,
    material: Material,
    taught: Taught,
    findings: Findings,
    exported: list[Exported],
    files: list[Json],
) -> Report:
    """files: [{path, sha256, size}] of all that the student consists of."""
    shown = {name: one for name, one in findings.columns.items() if _ordered(order, name)}
    runs = {"student": taught.student, "control": taught.control}
    return Report(
        job=order.job_id,
        date=datetime.now(UTC).date().isoformat(),
        verdict=verdict(order, findings),
        metric=order.task.metric,
        split=material.report.name,
        rows=findings.rows,
        labeled=findings.labeled,
        columns=[
            Column(
                name=name, **_about(order, name), n=findings.rows, metrics=one.metrics, classes=one.classes
            )
            for name, one in shown.items()
        ],
        differences=[
            Difference(column=a, minus=b, metrics=metrics)
            for (a, b), metrics in findings.differences.items()
            if a in shown and b in shown
        ],
        gap_recovered=findings.gap,
        exports=[_export(one, files) for one in exported],
        training={name: _run(run) for name, run in runs.items() if run is not None},
        data={
            "training": len(material.training.rows),
            "training_labeled": len(material.training.labeled),
            "validation": len(material.validation.rows),
            material.report.name: findings.rows,
        },
        notes=_notes(order, material, findings, taught),
        provenance=_provenance(order),
    )


def verdict(order: Order, findings: Findings) -> str:
    """One sentence, which reads the bounds of the intervals and not the values alone."""
    student, metric = findings.columns["student"].metrics, order.task.metric
    if not findings.labeled:
        agreement = student["agreement"].value
        what = f"{agreement:.1%} of {findings.rows} unlabeled rows"
        return f"The student agrees with the teacher on {what} (one seed; rows only)."
    whom = {"teacher": "the teacher", "ensemble": "the ensemble of its teachers", "control": "the control"}
    said = [
        _against(findings.differences["student", other][metric], whom[other])
        for other in (findings.teacher, "control")
        if ("student", other) in findings.differences and _ordered(order, other)
    ]
    reached = f"The student reaches {student[metric].value:.1%} {metric}" + (
        f": {' and '.join(said)}" if said else ""
    )
    return f"{reached} ({findings.rows} rows; one seed; rows only)."


def _ordered(order: Order, column: str) -> bool:
    """Whether evaluation.compare asks for the column; it never leaves out the student's."""
    of_teachers = column == "ensemble" or column.startswith("teacher")
    return not of_teachers or "teacher" in order.resolved.spec.evaluation.compare


def _against(gap: Interval, whom: str) -> str:
    if not gap.excludes_zero:
        return f"within noise of {whom}"
    return f"{abs(gap.value) * 100:.1f} points {'above' if gap.value > 0 else 'below'} {whom}"


def _about(order: Order, name: str) -> Json:
    teachers = order.resolved.teachers
    if name.startswith("teacher"):
        teacher = teachers[int(name.removeprefix("teacher_")) - 1] if "_" in name else teachers[0]
        return {"about": teacher.reference, "parameters": teacher.parameters}
    if name == "ensemble":
        about = f"{order.resolved.spec.ensemble} of {len(teachers)} teachers"
        return {"about": about, "parameters": sum(teacher.parameters for teacher in teachers)}
    students = {
        "student_before": "the student before any training",
        "control": "the same student and steps without the teacher, on the labeled rows alone",
        "student": "the distilled student",
    }
    return {"about": students[name], "parameters": order.resolved.parameters}


def _run(run: Trained) -> Run:
    return Run(
        steps=run.steps,
        total_steps=run.total_steps,
        best_step=run.best_step,
        best=run.best,
        stopped_by=run.stopped_by,
        seconds=run.seconds,
        samples_per_s=run.samples / max(run.seconds, 1e-9),
    )


def _export(one: Exported, files: list[Json]) -> ExportRow:
    mine = [file for file in files if file["path"] in one.files]
    return ExportRow(
        kind=one.form.kind,
        files=mine,
        size=sum(file["size"] for file in mine),
        runtime="onnxruntime" if one.form.serves else "torch",
        compared_rows=len(one.choices),
        accuracy=one.accuracy,
        difference=one.difference,
        tolerance=one.form.tolerance,
        agreement=one.agreement,
        latency=list(one.latency),
    )


def _notes(order: Order, material: Material, findings: Findings, taught: Taught) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = [
        "One seed: the intervals tell how much the rows could vary, not how much another training would."
    ]
    if material.report.name == "validation":
        notes.append(
            "There is no test set: these are the validation rows, which chose the best step, "
            "so the student looks a little too good."
        )
    else:
        notes += _of_the_test(order.resolved.data)
    if taught.why:
        notes.append(f"There is no control: {taught.why}.")
    elif findings.labeled and findings.gap is None:
        notes.append("No gap recovered is given: the interval of teacher minus control does not exclude 0.")
    if not findings.labeled:
        notes.append(
            "The rows have no labels: all that can be said is how well the student imitates its teacher."
        )
    return notes


def _of_the_test(data: ResolvedData) -> list[str]:
    """Whether the test rows are new to the student; files are compared whole, by their sha256."""
    assert data.test is not None
    seen = []
    if data.test.sha256 in {pin.sha256 for pin in (data.train, *data.unlabeled)}:
        seen.append("The test rows are also training rows: these figures say nothing about new data.")
    if isinstance(data.validation, PinnedData) and data.test.sha256 == data.validation.sha256:
        seen.append(
            "The test rows are also the validation rows, which chose the best step, "
            "so the student looks a little too good."
        )
    return seen or ["The test set was read once, after everything was decided."]


def _provenance(order: Order) -> Json:
    resolved, data = order.resolved, order.resolved.data
    pins = {"train": data.train, "validation": data.validation, "test": data.test}
    named = {name: pin for name, pin in pins.items() if pin is not None}
    named |= {f"unlabeled_{i + 1}": pin for i, pin in enumerate(data.unlabeled)}
    return {
        "seeds": [order.seed],
        "teachers": [
            {"reference": t.reference, "digest": t.digest, "weight": t.weight} for t in resolved.teachers
        ],
        "data": {name: pin.model_dump(mode="json") for name, pin in named.items()},
        "device": order.device.described(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
