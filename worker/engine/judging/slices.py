"""The same comparison within parts of the rows: those that have one value in a column."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.base import Frozen
from app.catalog.labels import ordered
from worker.engine.judging.intervals import Interval
from worker.engine.judging.metrics import Inherited, Judge, difference, inherited, score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MISSING = "(missing)"


class Slice(Frozen):
    """The n rows whose `column` has this value; metrics and differences by column of the report.

    inherited: null without labels or a teacher, and where answers are numbers.
    """

    column: str
    value: str
    n: int
    metrics: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    inherited: Inherited | None

    def of(self, columns: Collection[str]) -> "Slice":
        """With these columns alone."""
        metrics, differences = (
            {name: one for name, one in part.items() if name in columns}
            for part in (self.metrics, self.differences)
        )
        return self.model_copy(update={"metrics": metrics, "differences": differences})


def cut(
    column: str,
    values: Sequence[str | None],
    logits: "Mapping[str, Sequence[Array]]",
    labels: "Array | None",
    names: Sequence[str],
    *,
    judge: Judge,
    teacher: str | None,
    resamples: int,
    seed: int,
) -> list[Slice]:
    """One slice a value, in order. values: of the rows, (n,). teacher: the column for all teachers."""
    found = np.array([MISSING if value is None else value for value in values], object)
    distinct = ordered(value for value in values if value is not None)
    distinct += [MISSING] if (found == MISSING).any() and MISSING not in distinct else []
    asked: dict[str, Any] = {"judge": judge, "teacher": teacher, "resamples": resamples, "seed": seed}
    slices = []
    for value in distinct:
        rows = np.flatnonzero(found == value)
        here = {name: [run[rows] for run in runs] for name, runs in logits.items()}
        truth = None if labels is None else labels[rows]
        slices.append(_slice(column, value, here, truth, names, **asked))
    return slices


def errors_from(
    logits: "Mapping[str, Sequence[Array]]", labels: "Array | None", judge: Judge, teacher: str | None
) -> Inherited | None:
    """The student's errors that are its teacher's; None without labels or a teacher."""
    if labels is None or teacher is None:
        return None
    return inherited(judge, logits[teacher][0], labels, logits["student"], logits.get("control", ()))


def _slice(
    column: str,
    value: str,
    logits: "Mapping[str, Sequence[Array]]",
    labels: "Array | None",
    names: Sequence[str],
    *,
    judge: Judge,
    teacher: str | None,
    resamples: int,
    seed: int,
) -> Slice:
    scored = score(logits, labels, names, judge=judge, teacher=teacher, resamples=resamples, seed=seed)
    others = [name for name in ("control", teacher) if name in scored]
    return Slice(
        column=column,
        value=value,
        n=len(logits["student"][0]),
        metrics={name: one.metrics for name, one in scored.items()},
        differences={str(name): difference(scored["student"], scored[str(name)]) for name in others},
        inherited=errors_from(logits, labels, judge, teacher),
    )
