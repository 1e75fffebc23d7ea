"""The sixth phase: teachers, student and control answer the report's rows, once, and are compared over
them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from worker.engine.device import Rows
from worker.engine.ensemble import combination
from worker.engine.fetch import Material
from worker.engine.metrics import Interval, Scored, difference, gap_recovered, score
from worker.engine.train import Taught, predict
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class Findings:
    """columns: scores by column, in the report's order. teacher: the column that stands for all teachers."""

    student: nn.Module  # at its best step, on the CPU, in eval mode
    columns: dict[str, Scored]
    teacher: str
    differences: dict[tuple[str, str], dict[str, Interval]]
    gap: Interval | None
    rows: int
    labeled: bool


def evaluate(order: Order, material: Material, answers: "dict[str, Array]", taught: Taught) -> Findings:
    spec, split = order.resolved.spec, material.report
    inputs = Rows(material.tables.laid_end_to_end(split, order.task, order.preprocessing), order.device)
    states = {"student_before": None, "student": taught.student.state}
    if taught.control is not None:
        states = {"student_before": None, "control": taught.control.state, "student": taught.student.state}
    logits = _teachers(order, answers[split.name][split.rows])
    teacher = list(logits)[-1]
    for name, state in states.items():
        module = _module(order, state)
        logits[name] = predict(module, inputs, split.rows, order.normalize)
        order.journal.progress(len(logits) / (len(logits) + 2))
    columns = score(
        logits,
        split.labels[split.rows] if len(split.labeled) else None,
        order.resolved.labels,
        teacher=teacher,
        resamples=spec.evaluation.bootstrap,
        seed=order.seed,
    )
    findings = _compared(order, module.cpu(), columns, teacher, len(split.rows), bool(len(split.labeled)))
    _diagnose(order, findings)
    return findings


def _teachers(order: Order, heard: "Array") -> "dict[str, Array]":
    """Each teacher's logits, and the ensemble's last. heard: (n, K, C)."""
    count = heard.shape[1]
    if count == 1:
        return {"teacher": heard[:, 0]}
    weights = [teacher.weight for teacher in order.resolved.teachers]
    mean = combination(order.resolved.spec.ensemble, weights, torch.device("cpu"))
    each = {f"teacher_{k + 1}": heard[:, k] for k in range(count)}
    return each | {"ensemble": mean(torch.from_numpy(heard), 1.0).numpy()}


def _module(order: Order, state: dict[str, Tensor] | None) -> nn.Module:
    student = order.new_student()
    if state is not None:
        student.load_state_dict(state)
    return student


def _compared(
    order: Order, student: nn.Module, columns: dict[str, Scored], teacher: str, rows: int, labeled: bool
) -> Findings:
    pairs = [
        ("student", "control"),
        ("student", teacher),
        (teacher, "control"),
        ("student", "student_before"),
    ]
    differences = {(a, b): difference(columns[a], columns[b]) for a, b in pairs if b in columns}
    gap = None
    if labeled and "control" in columns:
        gap = gap_recovered(columns["student"], columns["control"], columns[teacher], order.task.metric)
    return Findings(student, columns, teacher, differences, gap, rows, labeled)


def _diagnose(order: Order, findings: Findings) -> None:
    metric, other = order.task.metric, "control" if "control" in findings.columns else "student"
    if not findings.labeled:
        return
    of_teacher, of_other = (
        findings.columns[name].metrics[metric].value for name in (findings.teacher, other)
    )
    if of_teacher <= of_other:
        order.journal.warn(
            "teacher_no_better_than_student",
            f"The teacher's {metric} is {of_teacher:.4f}, the {other}'s {of_other:.4f}: there was little "
            "to learn. "
            "Take a better teacher, or a smaller student.",
            teacher=of_teacher,
            other=of_other,
        )
