"""The report in one sentence."""

from app.catalog.measures import LOWER_IS_BETTER, SHARES
from worker.engine.judging.evaluate import Findings
from worker.engine.judging.intervals import Interval
from worker.engine.validate import Order


def verdict(order: Order, findings: Findings) -> str:
    """One sentence, which reads the bounds of the intervals and not the values alone."""
    student, metric = findings.columns["student"].metrics, order.task.metric
    count = len(findings.columns["student"].runs)
    trained = "one seed; rows only" if count == 1 else f"{count} seeds"
    if not findings.labeled:
        return f"{_imitated(findings, student)} ({trained})."
    said = [
        _against(metric, findings.differences["student", other][metric], _named(other))
        for other in (findings.teacher, "control")
        if other and ("student", other) in findings.differences and ordered(order, other)
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


def ordered(order: Order, column: str) -> bool:
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
