"""The sixth phase: teachers, students and controls answer the report's rows, once, and are compared over
them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from app.catalog.measures import LOWER_IS_BETTER
from worker.engine.device import Rows
from worker.engine.distill import Trained
from worker.engine.ensemble import Ensemble
from worker.engine.fetch import Material
from worker.engine.judging.cost import Cost, cost
from worker.engine.judging.intervals import Interval
from worker.engine.judging.metrics import (
    Inherited,
    Judge,
    Scored,
    difference,
    gap_recovered,
    judge_of,
    score,
)
from worker.engine.judging.parting import furthest
from worker.engine.judging.slices import Slice, cut, errors_from
from worker.engine.measuring import predict
from worker.engine.train import Taught
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Columns = dict[str, list[Array]]  # each run's logits (n, C), one run a seed

Differences = dict[tuple[str, str], dict[str, Interval]]  # by (column, minus)
JUDGED = ("control", "student")  # trained once a seed, and the last columns


@dataclass(frozen=True)
class Findings:
    """columns: scores by column, in the report's order. student: of the first seed.

    teacher: the column that stands for all teachers; None: there is none. likened: the column that agreement
    looks at, which is the teacher's or, without one, that of the student taught before. parameters: of the
    students' columns. parted: the rows where the student is furthest from `likened`.
    """

    student: nn.Module  # at its best step, on the CPU, in eval mode
    columns: dict[str, Scored]
    teacher: str | None
    likened: str | None
    differences: Differences
    gap: Interval | None
    inherited: Inherited | None
    slices: list[Slice]
    parted: list[dict[str, Any]]
    parameters: dict[str, int]
    cost: Cost
    rows: int
    labeled: bool


def evaluate(order: Order, material: Material, answers: "dict[str, Array]", taught: Taught) -> Findings:
    split, judge = material.report, judge_of(order.task, order.preprocessing)
    inputs = Rows(material.tables.laid_end_to_end(split, order.task, order.preprocessing), order.device)
    logits: Columns = {}
    if order.resolved.teachers:
        logits = _teachers(order, answers[split.name][split.rows])
    teacher = list(logits)[-1] if logits else None
    students = _students(taught)
    runs = sum(map(len, students.values()))
    parameters, student, done = {}, None, 0
    for name, trained in students.items():
        logits[name] = []
        for run in trained:
            module = _module(order, run, before=name == "student_before")
            logits[name].append(predict(module, inputs, split.rows, order.normalize))
            parameters[name] = sum(weight.numel() for weight in module.parameters())
            student = module if name == "student" and student is None else student
            done += 1
            order.journal.progress(0.8 * done / runs)
    assert student is not None
    for name, of in taught.ensembles.items():
        logits[name] = [_mean([logits[one][0] for one in of])]
        parameters[name] = sum(parameters[one] for one in of)
    logits["student"] = logits.pop("student")  # the last column
    likened = teacher or next(reversed([name for name in taught.students if name != "student"]), None)
    findings = _compared(order, material, judge, logits, teacher=teacher, likened=likened)
    row = order.normalize(material.tables.laid_end_to_end(split, order.task, order.preprocessing)[:1])
    student = student.cpu()
    result = Findings(
        student=student, parameters=parameters, cost=cost(student, np.ascontiguousarray(row)), **findings
    )
    _diagnose(order, result)
    return result


def _teachers(order: Order, heard: "Array") -> "Columns":
    """Each teacher's logits, and the ensemble's last. heard: (n, K, C), in half precision if so stored."""
    heard, count = heard.astype(np.float32), heard.shape[1]
    if count == 1:
        return {"teacher": [heard[:, 0]]}
    each = {f"teacher_{k + 1}": [heard[:, k]] for k in range(count)}
    return each | {"ensemble": [order.ensemble.mean(torch.from_numpy(heard)).numpy()]}


def _mean(logits: "Sequence[Array]") -> "Array":
    """What the mean of the probabilities, or of the numbers, is the answer to: (n, C)."""
    alike = Ensemble("mean_probabilities", [1.0] * len(logits))
    mean: Array = alike.mean(torch.from_numpy(np.stack(logits, 1))).numpy()
    return mean


def _students(taught: Taught) -> dict[str, Sequence[Trained]]:
    """In the report's order; the student as it was before any training is the first seed's."""
    before = {name: runs for name, runs in taught.students.items() if name != "student"}
    controls = {"control": taught.controls} if taught.controls else {}
    return {"student_before": [taught.student], **before, **controls, "student": taught.students["student"]}


def _module(order: Order, run: Trained, *, before: bool) -> nn.Module:
    if before:
        return order.new_student(seed=run.seed).eval()  # it starts as it was ordered to
    student = order.new_student(run.architecture, run.seed)
    student.load_state_dict(run.state)
    return student.eval()


def _compared(
    order: Order,
    material: Material,
    judge: Judge,
    logits: "Columns",
    *,
    teacher: str | None,
    likened: str | None,
) -> dict[str, Any]:
    """What Findings say of the logits alone."""
    split, names = material.report, order.resolved.labels
    labels = split.labels[split.rows] if len(split.labeled) else None
    asked: dict[str, Any] = {
        "judge": judge,
        "teacher": likened,
        "resamples": order.resolved.spec.evaluation.bootstrap,
        "seed": order.seed,
    }
    columns = score(logits, labels, names, **asked)
    gap, parted = None, []
    if labels is not None and teacher and "control" in columns:
        gap = gap_recovered(columns["student"], columns["control"], columns[teacher], order.task.metric)
    if likened:
        parted = furthest(order, split, judge, logits["student"][0], logits[likened][0])
    compared = {name: logits[name] for name in (likened, *JUDGED) if name in logits}
    slices = [
        cut(column, material.tables.column(split, column), compared, labels, names, **asked)
        for column in order.resolved.spec.evaluation.slices
    ]
    return {
        "columns": columns,
        "teacher": teacher,
        "likened": likened,
        "differences": _differences(columns, teacher),
        "gap": gap,
        "inherited": errors_from(logits, labels, judge, teacher),
        "slices": [one for column in slices for one in column],
        "parted": parted,
        "rows": len(split.rows),
        "labeled": labels is not None,
    }


def _differences(
    columns: dict[str, Scored], teacher: str | None
) -> dict[tuple[str, str], dict[str, Interval]]:
    """Of the student to everybody but single teachers of several, and of the teacher to the control."""
    others = [name for name in columns if name not in (*JUDGED, teacher) and not name.startswith("teacher_")]
    pairs = [("student", name) for name in ("control", teacher, *others)] + [(teacher, "control")]
    return {(a, b): difference(columns[a], columns[b]) for a, b in pairs if a in columns and b in columns}


def _diagnose(order: Order, findings: Findings) -> None:
    metric, other = order.task.metric, "control" if "control" in findings.columns else "student"
    if not findings.labeled or findings.teacher is None:
        return
    of_teacher, of_other = (
        findings.columns[name].metrics[metric].value for name in (findings.teacher, other)
    )
    if of_teacher >= of_other if metric in LOWER_IS_BETTER else of_teacher <= of_other:
        order.journal.warn(
            "teacher_no_better_than_student",
            f"The teacher's {metric} is {of_teacher:.4f}, the {other}'s {of_other:.4f}: there was little "
            "to learn. "
            "Take a better teacher, or a smaller student.",
            teacher=of_teacher,
            other=of_other,
        )
