"""Gates read the worse bound, and of errors the other way around."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.catalog.spec import Gate, Limits
from worker.engine.judging.classes import OfClasses
from worker.engine.judging.gates import GateResult, judged, within_limits
from worker.engine.judging.metrics import Scored, score
from worker.engine.judging.values import OfNumbers

NAMES = ["a", "b"]


@pytest.fixture(scope="module")
def columns() -> dict[str, Scored]:
    """The teacher is right on 95 of 100 rows, the student on 90 and the control on 80 of them."""
    labels = np.zeros(100, np.int64)
    logits = {}
    for name, right in {"teacher": 95, "control": 80, "student": 90}.items():
        logits[name] = [4.0 * np.eye(2)[(np.arange(100) >= right).astype(int)]]
    return score(logits, labels, NAMES, judge=OfClasses(), teacher="teacher", resamples=2000, seed=0)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Scored]:
    """Errors of 1 (teacher), 1.1 (student) and 2 (control), up and down in turn: alike in every resample."""
    labels, turn = np.zeros(200, np.float32), np.where(np.arange(200) % 2, 1.0, -1.0)
    logits = {name: [(turn * error)[:, None]] for name, error in
              {"teacher": 1.0, "control": 2.0, "student": 1.1}.items()}  # fmt: skip
    judge = OfNumbers(lambda z: z)
    return score(logits, labels, ["y"], judge=judge, teacher="teacher", resamples=200, seed=0)


def one(columns: dict[str, Scored], **gate: Any) -> GateResult:
    (verdict,) = judged([Gate(**gate)], columns, "teacher")
    return verdict


def test_the_lower_bound_must_reach_a_least_value(columns: dict[str, Scored]) -> None:
    found = columns["student"].metrics["accuracy"]
    verdict = one(columns, min=0.88)  # the value would pass
    assert (verdict.value, verdict.bound, verdict.passed) == (0.9, found.low, False)
    assert "its lower bound is" in verdict.detail
    assert one(columns, min=found.low).passed


def test_the_upper_bound_must_keep_a_largest_value(columns: dict[str, Scored]) -> None:
    found = columns["student"].metrics["accuracy"]
    assert one(columns, max=found.high).passed
    assert not one(columns, max=0.9).passed
    assert one(columns, max=0.9).bound == found.high


def test_a_ratio_and_a_difference_are_paired_over_the_rows(columns: dict[str, Scored]) -> None:
    ratio = one(columns, versus="teacher", min_ratio=0.85)
    assert ratio.value == pytest.approx(90 / 95)
    assert ratio.passed
    assert ratio.bound is not None
    assert 0.85 < ratio.bound < 90 / 95
    assert not one(columns, versus="teacher", min_ratio=0.94).passed
    ahead = one(columns, versus="control", min_difference=0.03)
    assert ahead.value == pytest.approx(0.1)
    assert ahead.passed
    assert not one(columns, versus="control", min_difference=0.09).passed


def test_an_error_is_better_when_lower_so_its_gates_are_mirrored(numbers: dict[str, Scored]) -> None:
    ratio = one(numbers, metric="rmse", versus="teacher", min_ratio=0.9)
    assert ratio.value == pytest.approx(1 / 1.1)
    assert ratio.passed
    assert not one(numbers, metric="rmse", versus="teacher", min_ratio=0.92).passed
    ahead = one(numbers, metric="rmse", versus="control", min_difference=0.85)
    assert ahead.value == pytest.approx(0.9)
    assert ahead.passed
    assert not one(numbers, metric="mae", versus="teacher", min_difference=-0.05).passed
    assert one(numbers, metric="mae", versus="teacher", min_difference=-0.15).passed


def test_a_gate_without_anything_to_compare_with_is_not_passed(columns: dict[str, Scored]) -> None:
    alone = {"student": columns["student"], "teacher": columns["teacher"]}
    verdict = one(alone, versus="control", min_difference=0.0)
    assert (verdict.value, verdict.bound, verdict.passed) == (None, None, False)
    assert verdict.detail == "there is no control to compare with in this report"


def test_a_ratio_to_nothing_is_finite() -> None:
    labels = np.zeros(20, np.int64)
    logits = {name: [np.eye(2)[np.full(20, wrong)]] for name, wrong in (("teacher", 1), ("student", 0))}
    columns = score(logits, labels, NAMES, judge=OfClasses(), teacher="teacher", resamples=100, seed=0)
    verdict = one(columns, versus="teacher", min_ratio=1.0)
    assert verdict.passed
    assert verdict.value == 1e6


def test_what_a_device_can_take() -> None:
    limits = Limits(max_parameters=100, max_bytes=1000, max_latency_ms=2.0)
    found = within_limits(limits, parameters=100, largest_file=1001, latency_ms=None)
    assert [verdict.passed for verdict in found] == [True, False, False]
    assert found[1].detail == "the student has 1,001 bytes in its largest file; at most 1,000 are allowed"
    assert within_limits(Limits(), parameters=1, largest_file=1, latency_ms=1.0) == []


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({}, "exactly one of min, max, min_ratio and min_difference; it has none"),
        ({"min": 0.5, "max": 0.9}, "it has min and max"),
        ({"versus": "teacher", "min": 0.5}, "leave `versus` out"),
        ({"min_ratio": 0.9}, "name `versus`: teacher or control"),
    ],
)
def test_a_gate_has_one_bar(gate: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Gate(**gate)
