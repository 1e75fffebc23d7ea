"""The report: what the student is worth, with the evidence. report.json is this form."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from app.catalog.base import Frozen
from worker.engine.distill import Trained
from worker.engine.export import Exported, Latency
from worker.engine.fetch import Material
from worker.engine.judging.classes import ClassScore
from worker.engine.judging.cost import Cost
from worker.engine.judging.evaluate import Findings
from worker.engine.judging.gates import GateResult, judged, within_limits
from worker.engine.judging.intervals import Interval
from worker.engine.judging.metrics import Inherited
from worker.engine.judging.notes import notes, of_the_gates, seeds
from worker.engine.judging.slices import Slice
from worker.engine.judging.verdict import ordered, verdict
from worker.engine.train import Taught
from worker.engine.validate import Order

LIBRARIES = ("stillhouse", "torch", "transformers", "onnx", "onnxruntime", "scikit-learn", "scipy", "numpy")

Json = dict[str, Any]


class Seed(Frozen):
    """What the student of one seed reached."""

    seed: int
    metrics: dict[str, float]


class Column(Frozen):
    """One of those that are compared, over n rows. classes: worst first. parameters: 0 where unknown.

    metrics: of several seeds the means, and `seeds` has each one's own.
    """

    name: str
    about: str
    parameters: int
    n: int
    metrics: dict[str, Interval]
    classes: list[ClassScore]
    seeds: list[Seed]


class Difference(Frozen):
    """`column` minus `minus`, over the same rows."""

    column: str
    minus: str
    metrics: dict[str, Interval]


class Run(Frozen):
    """How a student was trained. seconds: with the validations."""

    seed: int
    steps: int
    total_steps: int
    best_step: int
    best: dict[str, float]
    stopped_by: Literal["epochs", "early_stopping", "user"]
    seconds: float
    samples_per_s: float


class ExportRow(Frozen):
    """difference: the largest of a logit from the student's. likeness: agreement with it, or of numbers the
    root mean squared difference from it. value: of the report's metric; null without labels.

    tolerance: null for a lossy format. size: bytes of its files.
    """

    kind: str
    files: list[Json]
    size: int
    runtime: Literal["onnxruntime", "torch"]
    compared_rows: int
    value: float | None
    difference: float
    tolerance: float | None
    likeness: float
    latency: list[Latency]


class Report(Frozen):
    """metric: what the verdict is about. split: whose rows were answered. labeled: whether they have labels.

    likened: the column that agreement looks at; null: none. inherited: the student's errors that are its
    teacher's. seeds: of the trainings; the student of the first one leaves. date: when it was made, in UTC.
    """

    object: Literal["report"] = "report"
    job: str
    date: str
    verdict: str
    metric: str
    split: str
    rows: int
    labeled: bool
    likened: str | None
    seeds: list[int]
    columns: list[Column]
    differences: list[Difference]
    gap_recovered: Interval | None
    inherited: Inherited | None
    slices: list[Slice]
    gates: list[GateResult]
    exports: list[ExportRow]
    cost: Cost
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
    shown = {name: one for name, one in findings.columns.items() if ordered(order, name)}
    rows = [_export(one, files) for one in exported]
    gates = _gates(order, findings, rows)
    return Report(
        job=order.job_id,
        date=datetime.now(UTC).date().isoformat(),
        verdict=verdict(order, findings),
        metric=order.task.metric,
        split=material.report.name,
        rows=findings.rows,
        labeled=findings.labeled,
        likened=findings.likened,
        seeds=seeds(taught),
        columns=[_column(order, findings, taught, name) for name in shown],
        differences=[
            Difference(column=a, minus=b, metrics=metrics)
            for (a, b), metrics in findings.differences.items()
            if a in shown and b in shown
        ],
        gap_recovered=findings.gap,
        inherited=findings.inherited,
        slices=[one.of(shown) for one in findings.slices],
        gates=gates,
        exports=rows,
        cost=findings.cost,
        training={name: _run(run) for name, run in _runs(taught).items()},
        data={
            "training": len(material.training.rows),
            "training_labeled": len(material.training.labeled),
            "validation": len(material.validation.rows),
            material.report.name: findings.rows,
        },
        notes=[*notes(order, material, findings, taught), *of_the_gates(order, gates), *taught.notes],
        provenance=_provenance(order, taught),
    )


def _column(order: Order, findings: Findings, taught: Taught, name: str) -> Column:
    one = findings.columns[name]
    trained = {"control": taught.controls, **taught.students}.get(name, [])
    seeds = [Seed(seed=run.seed, metrics=values) for run, values in zip(trained, one.runs, strict=False)]
    about = _about(order, findings, taught, name)
    return Column(name=name, **about, n=findings.rows, metrics=one.metrics, classes=one.classes, seeds=seeds)


def _about(order: Order, findings: Findings, taught: Taught, name: str) -> Json:
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
    }
    about = students.get(name) or order.resolved.spec.scheme.about(name)
    if name in taught.versions:
        about += f": {taught.versions[name]['reference']}"
    return {"about": about, "parameters": findings.parameters[name]}


def _runs(taught: Taught) -> dict[str, Trained]:
    """Every training by its column, and from the second seed on with it."""
    columns = {**taught.students, "control": taught.controls}
    return {
        name if place == 0 else f"{name}, seed {run.seed}": run
        for name, runs in columns.items()
        for place, run in enumerate(runs)
    }


def _gates(order: Order, findings: Findings, rows: list[ExportRow]) -> list[GateResult]:
    spec = order.resolved.spec
    served = [one.latency[0].p50_ms for one in rows if one.runtime == "onnxruntime"]
    sizes = [file["size"] for one in rows for file in one.files]
    return [
        *judged(spec.evaluation.gates, findings.columns, findings.teacher),
        *within_limits(
            spec.student.limits,
            parameters=order.resolved.parameters,
            largest_file=max(sizes),
            latency_ms=min(served, default=None),
        ),
    ]


def _run(run: Trained) -> Run:
    return Run(
        seed=run.seed,
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
        compared_rows=len(one.logits),
        value=one.value,
        difference=one.difference,
        tolerance=one.form.tolerance,
        likeness=one.likeness,
        latency=list(one.latency),
    )


def _provenance(order: Order, taught: Taught) -> Json:
    resolved, data = order.resolved, order.resolved.data
    pins = {"train": data.train, "validation": data.validation, "test": data.test}
    named = {name: pin for name, pin in pins.items() if pin is not None}
    named |= {f"unlabeled_{i + 1}": pin for i, pin in enumerate(data.unlabeled)}
    return {
        "seeds": seeds(taught),
        "teachers": [
            {"reference": t.reference, "digest": t.digest, "weight": t.weight} for t in resolved.teachers
        ],
        "data": {name: pin.model_dump(mode="json") for name, pin in named.items()},
        "device": order.device.described(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
