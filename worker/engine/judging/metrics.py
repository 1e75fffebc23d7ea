"""Columns against labels and against a teacher: values, intervals, and what two columns differ by.

One bootstrap draws row numbers, and seeds, for all columns at once, so every difference between two columns
is a paired one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.base import Frozen, Task
from app.catalog.measures import LOWER_IS_BETTER
from worker.engine.judging.classes import ClassScore, OfClasses
from worker.engine.judging.intervals import Column, Interval, interval, resampled
from worker.engine.judging.values import OfNumbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Judge = OfClasses | OfNumbers


class Inherited(Frozen):
    """Rows that the student has wrong as its teacher has them wrong. Of several seeds the means.

    errors: rows that the student has wrong. control: the same share of the control's errors, which is what
    comes without the teacher. None: there are no errors to have a share of, or no control.
    """

    errors: float
    inherited: float
    share: float | None
    control: float | None


@dataclass(frozen=True)
class Scored:
    """One column: its metrics by name, the same over each resample, its classes, and each seed's values."""

    metrics: dict[str, Interval]
    drawn: "dict[str, Array]"
    classes: list[ClassScore]
    runs: list[dict[str, float]]


def judge_of(task: Task, preprocessing: Frozen) -> Judge:
    """preprocessing: the student's."""
    if task.answer == "class":
        return OfClasses()
    return OfNumbers(partial(task.in_units, preprocessing=preprocessing))


def score(
    columns: "Mapping[str, Sequence[Array]]",
    labels: "Array | None",
    names: Sequence[str],
    *,
    judge: Judge,
    teacher: str | None,
    resamples: int,
    seed: int,
) -> dict[str, Scored]:
    """Every column's metrics over the same rows; its value is the mean over its runs, one a seed.

    columns: each run's logits (n, C). teacher: the column that likeness looks at; None: there is none.
    labels: (n,), or None where no row has one: then likeness is all that is given. names: of the classes.
    """
    heard = None if teacher is None else columns[teacher][0]
    others = {name: None if name == teacher else heard for name in columns}
    sums = {
        name: Column([judge.sums(logits, labels, others[name]) for logits in runs])
        for name, runs in columns.items()
    }
    nothing = labels is None and heard is None
    drawn = {name: {} for name in columns} if nothing else resampled(sums, resamples, seed)
    return {
        name: _scored(judge, runs, labels, names, heard=others[name], drawn=drawn[name])
        for name, runs in columns.items()
    }


def difference(a: Scored, b: Scored) -> dict[str, Interval]:
    """a minus b for every metric that both have, paired by resample."""
    both = [metric for metric in a.metrics if metric in b.metrics]
    return {m: interval(a.metrics[m].value - b.metrics[m].value, a.drawn[m] - b.drawn[m]) for m in both}


def gap_recovered(student: Scored, control: Scored, teacher: Scored, metric: str) -> Interval | None:
    """(student - control) / (teacher - control); None where the teacher is not better beyond its interval."""
    gap = difference(teacher, control).get(metric)
    if gap is None or not gap.excludes_zero or (gap.value < 0) != (metric in LOWER_IS_BETTER):
        return None
    divisors = teacher.drawn[metric] - control.drawn[metric]
    usable = divisors != 0
    won = (student.drawn[metric] - control.drawn[metric])[usable] / divisors[usable]
    return interval(difference(student, control)[metric].value / gap.value, won)


def inherited(
    judge: Judge,
    teacher: "Array",
    labels: "Array",
    students: "Sequence[Array]",
    controls: "Sequence[Array]",
) -> Inherited | None:
    """None where answers are numbers, which are never quite right. students, controls: logits, one a seed."""
    if not isinstance(judge, OfClasses):
        return None
    astray = judge.wrong(teacher, labels)

    def counts(runs: "Sequence[Array]") -> tuple[float, float]:
        found = [(judge.wrong(z, labels), judge.alike(z, teacher)) for z in runs]
        alike = [float((wrong & astray & same).sum()) for wrong, same in found]
        return float(np.mean([wrong.sum() for wrong, _ in found])), float(np.mean(alike))

    errors, same = counts(students)
    base, of_base = counts(controls) if controls else (0.0, 0.0)
    return Inherited(
        errors=errors,
        inherited=same,
        share=same / errors if errors else None,
        control=of_base / base if base else None,
    )


def _scored(
    judge: Judge,
    runs: "Sequence[Array]",
    labels: "Array | None",
    names: Sequence[str],
    *,
    heard: "Array | None",
    drawn: "dict[str, Array]",
) -> Scored:
    values = [
        ({} if labels is None else judge.truth(logits, labels))
        | ({} if heard is None else judge.likeness(logits, heard))
        for logits in runs
    ]
    metrics = {m: interval(float(np.mean([one[m] for one in values])), drawn[m]) for m in values[0]}
    classes = [] if labels is None else judge.classes(runs, labels, names, drawn)
    return Scored(metrics, drawn, classes, values)
