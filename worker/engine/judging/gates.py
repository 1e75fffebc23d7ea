"""The bars that a student must clear: of its metrics by the worse bound of the interval, of its device by
what was measured."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.base import Frozen
from app.catalog.measures import LOWER_IS_BETTER
from app.catalog.spec import Gate, Limits
from worker.engine.judging.intervals import Interval, interval
from worker.engine.judging.metrics import Scored, difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Json = dict[str, Any]

SMALLEST, LARGEST = 1e-12, 1e6  # a divisor, and a ratio: finite also where the other has 0


class GateResult(Frozen):
    """gate: as it was ordered, or {limit, max}. bound: what was held against the bar; null: nothing was."""

    gate: dict[str, Any]
    value: float | None
    bound: float | None
    passed: bool
    detail: str


def judged(gates: Sequence[Gate], columns: Mapping[str, Scored], teacher: str | None) -> list[GateResult]:
    """teacher: the column that stands for all teachers."""
    names = {"teacher": teacher, "control": "control"}
    return [_judged(gate, columns, None if gate.versus is None else names[gate.versus]) for gate in gates]


def within_limits(
    limits: Limits, *, parameters: int, largest_file: int, latency_ms: float | None
) -> list[GateResult]:
    """One verdict for each limit that was set. latency_ms: None: no file is served."""
    measured = {
        "max_parameters": (limits.max_parameters, parameters, "parameters"),
        "max_bytes": (limits.max_bytes, largest_file, "bytes in its largest file"),
        "max_latency_ms": (
            limits.max_latency_ms,
            latency_ms,
            "ms for one row, the median of its fastest file",
        ),
    }
    return [
        GateResult(
            gate={"limit": name, "max": most},
            value=found,
            bound=found,
            passed=found is not None and found <= most,
            detail=f"the student has {'no measured' if found is None else f'{found:,.6g}'} {what}; "
            f"at most {most:,.6g} are allowed",
        )
        for name, (most, found, what) in measured.items()
        if most is not None
    ]


def _judged(gate: Gate, columns: Mapping[str, Scored], other: str | None) -> GateResult:
    told = gate.model_dump(exclude_none=True)
    student = columns["student"]
    lacking = gate.metric not in student.metrics or (gate.versus and (other is None or other not in columns))
    if lacking:
        what = gate.metric if gate.metric not in student.metrics else f"{gate.versus} to compare with"
        return GateResult(
            gate=told, value=None, bound=None, passed=False, detail=f"there is no {what} in this report"
        )
    against = None if other is None else columns[other]
    measured, bar, upper, what = _measured(gate, student, against)
    bound = measured.high if upper else measured.low
    passed = bound is not None and (bound <= bar if upper else bound >= bar)
    side, need = ("upper", "at most") if upper else ("lower", "at least")
    found = "there is no interval of one row" if bound is None else f"its {side} bound is {bound:.4f}"
    detail = f"{what} is {measured.value:.4f}; {found}, {need} {bar:.4f} is needed"
    return GateResult(gate=told, value=measured.value, bound=bound, passed=passed, detail=detail)


def _measured(gate: Gate, student: Scored, other: Scored | None) -> tuple[Interval, float, bool, str]:
    """What is held against the bar, the bar, whether its upper bound counts, and its name.

    Of a metric that is better when lower, ratio and difference are those of the other to the student.
    """
    metric, lower = gate.metric, gate.metric in LOWER_IS_BETTER
    if gate.max is not None:
        return student.metrics[metric], gate.max, True, metric
    if gate.min is not None:
        return student.metrics[metric], gate.min, False, metric
    assert other is not None
    first, second = (other, student) if lower else (student, other)
    names = (f"the {gate.versus}'s", "the student's") if lower else ("the student's", f"the {gate.versus}'s")
    if gate.min_difference is not None:
        what = f"{names[0]} {metric} minus {names[1]}"
        return difference(first, second)[metric], gate.min_difference, False, what
    assert gate.min_ratio is not None
    value = _ratio(np.array([first.metrics[metric].value]), np.array([second.metrics[metric].value]))
    found = interval(float(value[0]), _ratio(first.drawn[metric], second.drawn[metric]))
    return found, gate.min_ratio, False, f"{names[0]} {metric} divided by {names[1]}"


def _ratio(above: "Array", below: "Array") -> "Array":
    """0 to 0 is 1."""
    both = (above < SMALLEST) & (below < SMALLEST)
    return np.where(both, 1.0, np.minimum(above / np.maximum(below, SMALLEST), LARGEST))
