"""The report: what the student is worth, with the evidence. report.json is this form."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from app.catalog.base import Frozen
from app.catalog.measures import LOWER_IS_BETTER, SHARES
from app.catalog.spec import PinnedData, ResolvedData
from worker.engine.classes import ClassScore
from worker.engine.cost import Cost
from worker.engine.distill import Trained
from worker.engine.evaluate import Findings
from worker.engine.export import Exported, Latency
from worker.engine.fetch import Material
from worker.engine.gates import Verdict, judged, within_limits
from worker.engine.intervals import Interval
from worker.engine.metrics import Inherited
from worker.engine.slices import Slice
from worker.engine.train import Taught
from worker.engine.validate import Order

LIBRARIES = ("stillhouse", "torch", "transformers", "onnx", "onnxruntime", "scikit-learn", "scipy", "numpy")
FEW_SEEDS = 5

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
    gates: list[Verdict]
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
    shown = {name: one for name, one in findings.columns.items() if _ordered(order, name)}
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
        seeds=_seeds(order),
        columns=[_column(order, findings, taught, name) for name in shown],
        differences=[
            Difference(column=a, minus=b, metrics=metrics)
            for (a, b), metrics in findings.differences.items()
            if a in shown and b in shown
        ],
        gap_recovered=findings.gap,
        inherited=findings.inherited,
        slices=findings.slices,
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
        notes=[*_notes(order, material, findings, taught), *_of_the_gates(order, gates), *taught.notes],
        provenance=_provenance(order),
    )


def verdict(order: Order, findings: Findings) -> str:
    """One sentence, which reads the bounds of the intervals and not the values alone."""
    student, metric = findings.columns["student"].metrics, order.task.metric
    count = order.resolved.spec.evaluation.seeds
    trained = "one seed; rows only" if count == 1 else f"{count} seeds"
    if not findings.labeled:
        return f"{_imitated(findings, student)} ({trained})."
    said = [
        _against(metric, findings.differences["student", other][metric], _named(other))
        for other in (findings.teacher, "control")
        if other and ("student", other) in findings.differences and _ordered(order, other)
    ]
    reached = f"The student reaches {_amount(metric, student[metric].value)} {metric}" + (
        f": {' and '.join(said)}" if said else ""
    )
    return f"{reached} ({findings.rows} rows; {trained})."


def _imitated(findings: Findings, student: dict[str, Interval]) -> str:
    if findings.likened is None:
        return "The student has neither labels nor a teacher to be measured by"
    whom = _named(findings.likened)
    if "agreement" in student:
        shared = f"{student['agreement'].value:.1%} of {findings.rows} unlabeled rows"
        return f"The student agrees with {whom} on {shared}"
    (name, apart), *_ = student.items()
    return f"The student is {apart.value:.4g} ({name}) from {whom} on {findings.rows} unlabeled rows"


def _named(column: str) -> str:
    named = {"teacher": "the teacher", "ensemble": "the ensemble of its teachers", "control": "the control"}
    return named.get(column, column)


def _ordered(order: Order, column: str) -> bool:
    """Whether evaluation.compare asks for the column; it never leaves out the student's."""
    of_teachers = column == "ensemble" or column.startswith("teacher")
    return not of_teachers or "teacher" in order.resolved.spec.evaluation.compare


def _against(metric: str, gap: Interval, whom: str) -> str:
    if not gap.excludes_zero:
        return f"within noise of {whom}"
    if metric in LOWER_IS_BETTER:
        return f"{_amount(metric, abs(gap.value))} {'better' if gap.value < 0 else 'worse'} than {whom}"
    apart = f"{abs(gap.value) * 100:.1f} points" if metric in SHARES else f"{abs(gap.value):.4g}"
    return f"{apart} {'above' if gap.value > 0 else 'below'} {whom}"


def _amount(metric: str, value: float) -> str:
    return f"{value:.1%}" if metric in SHARES else f"{value:.4g}"


def _column(order: Order, findings: Findings, taught: Taught, name: str) -> Column:
    one = findings.columns[name]
    trained = {"control": taught.controls, **taught.students}.get(name, [])
    seeds = [Seed(seed=run.seed, metrics=values) for run, values in zip(trained, one.runs, strict=False)]
    about = _about(order, findings, name)
    return Column(name=name, **about, n=findings.rows, metrics=one.metrics, classes=one.classes, seeds=seeds)


def _about(order: Order, findings: Findings, name: str) -> Json:
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
    kind = order.resolved.spec.scheme.kind
    about = students.get(name, f"{name.replace('_', ' ')} of the scheme {kind}")
    return {"about": about, "parameters": findings.parameters[name]}


def _seeds(order: Order) -> list[int]:
    return list(range(order.seed, order.seed + order.resolved.spec.evaluation.seeds))


def _runs(taught: Taught) -> dict[str, Trained]:
    """Every training by its column, and from the second seed on with it."""
    columns = {**taught.students, "control": taught.controls}
    return {
        name if place == 0 else f"{name}, seed {run.seed}": run
        for name, runs in columns.items()
        for place, run in enumerate(runs)
    }


def _gates(order: Order, findings: Findings, rows: list[ExportRow]) -> list[Verdict]:
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


def _notes(order: Order, material: Material, findings: Findings, taught: Taught) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = [_of_the_seeds(_seeds(order))]
    if material.report.name == "validation":
        notes.append(
            "There is no test set: these are the validation rows, which chose the best step, "
            "so the student looks a little too good."
        )
    else:
        notes += _of_the_test(order.resolved.data)
    if taught.why:
        notes.append(f"There is no control: {taught.why}.")
    elif findings.labeled and findings.gap is None and findings.teacher:
        notes.append("No gap recovered is given: the interval of teacher minus control does not exclude 0.")
    if len(order.resolved.spec.evaluation.slices):
        notes.append(
            "The slices were not corrected for being many: of 20 differences without a cause, about one "
            "interval excludes 0."
        )
    if not findings.labeled:
        notes.append(
            "The rows have no labels: all that can be said is how well the student imitates its teacher."
        )
    return notes


def _of_the_seeds(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return (
            "One seed: the intervals tell how much the rows could vary, not how much another training would."
        )
    told = (
        f"{len(seeds)} seeds: values are means over their trainings, and the intervals tell how much rows "
        f"and trainings vary together. The student that leaves is that of seed {seeds[0]}."
    )
    return told + (" Of so few seeds the intervals are rather too narrow." if len(seeds) < FEW_SEEDS else "")


def _of_the_gates(order: Order, gates: list[Verdict]) -> list[str]:
    alias = order.resolved.spec.output.alias
    if all(gate.passed for gate in gates) or alias is None:
        return []
    return [f"A gate was not passed, so the alias {alias} was not moved to this version."]


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
        "seeds": _seeds(order),
        "teachers": [
            {"reference": t.reference, "digest": t.digest, "weight": t.weight} for t in resolved.teachers
        ],
        "data": {name: pin.model_dump(mode="json") for name, pin in named.items()},
        "device": order.device.described(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
