"""Values by hand or by scikit-learn, and intervals that mean what they say."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_score, recall_score

from worker.engine.judging.classes import OfClasses, imitation_metrics, truth_metrics
from worker.engine.judging.metrics import Scored, difference, gap_recovered, inherited
from worker.engine.judging.metrics import score as score_columns
from worker.engine.judging.values import OfNumbers

NAMES = ["a", "b", "c", "d"]


def drawn(n: int, skill: dict[str, float], classes: int = 4) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Logits of columns of different skill about the same rows."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, classes, n)
    noise = chance.normal(size=(n, classes))
    logits = {
        name: (noise + chance.normal(size=(n, classes)) + better * np.eye(classes)[labels]).astype(np.float32)
        for name, better in skill.items()
    }
    return logits, labels


def score(
    columns: dict[str, NDArray[Any]], labels: NDArray[Any] | None, names: list[str], **asked: Any
) -> dict[str, Scored]:
    """One run a column, and classes."""
    runs = {name: [logits] for name, logits in columns.items()}
    return score_columns(runs, labels, names, judge=OfClasses(), **asked)


def test_metrics_by_hand() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]))
    metrics = truth_metrics(logits, np.array([0, 1, 1, 0]))
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_recall"] == 0.75
    assert metrics["macro_precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert metrics["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)  # four bins of one row each


def test_imitation_by_hand() -> None:
    teacher, student = (
        np.log(np.array([[0.75, 0.25], [0.5, 0.5]])),
        np.log(np.array([[0.5, 0.5], [0.25, 0.75]])),
    )
    metrics = imitation_metrics(student, teacher)
    assert metrics["agreement"] == 0.5
    kl = [0.75 * np.log(1.5) + 0.25 * np.log(0.5), 0.5 * np.log(2) + 0.5 * np.log(2 / 3)]
    assert metrics["kl"] == pytest.approx(np.mean(kl))


def test_a_resample_of_the_rows_gives_what_scikit_learn_says_of_it() -> None:
    logits, labels = drawn(60, {"teacher": 3.0, "student": 1.0})
    scored = score(logits, labels, NAMES, teacher="teacher", resamples=100, seed=4)["student"]
    rows = np.random.default_rng(4).integers(0, 60, (100, 60))[17]
    predicted, truth = logits["student"][rows].argmax(-1), labels[rows]
    assert scored.drawn["accuracy"][17] == pytest.approx((predicted == truth).mean())
    for name, function in {
        "macro_f1": f1_score,
        "macro_precision": precision_score,
        "macro_recall": recall_score,
    }.items():
        assert scored.drawn[name][17] == pytest.approx(
            function(truth, predicted, average="macro", zero_division=0)
        )
    of_resample = truth_metrics(logits["student"][rows], truth)
    assert scored.drawn["log_loss"][17] == pytest.approx(of_resample["log_loss"], rel=1e-5)
    assert scored.drawn["ece"][17] == pytest.approx(of_resample["ece"], rel=1e-4)


def test_the_interval_of_an_accuracy_is_about_two_standard_errors_wide() -> None:
    logits, labels = drawn(1000, {"teacher": 3.0, "student": 1.0})
    accuracy = score(logits, labels, NAMES, teacher="teacher", resamples=2000, seed=0)["student"].metrics[
        "accuracy"
    ]
    error = np.sqrt(accuracy.value * (1 - accuracy.value) / 1000)
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_paired_difference_is_narrower_than_two_intervals_and_0_for_the_same_column() -> None:
    logits, labels = drawn(500, {"teacher": 3.0, "student": 1.5})
    logits["twin"] = logits["student"]
    scored = score(logits, labels, NAMES, teacher="teacher", resamples=500, seed=0)
    nothing = difference(scored["student"], scored["twin"])["accuracy"]
    assert (nothing.value, nothing.low, nothing.high, nothing.excludes_zero) == (0.0, 0.0, 0.0, False)
    gap = difference(scored["teacher"], scored["student"])
    assert set(gap) == {"accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss", "ece"}
    one = scored["student"].metrics["accuracy"]
    assert gap["accuracy"].excludes_zero
    assert gap["accuracy"].high - gap["accuracy"].low < 2 * (one.high - one.low)  # type: ignore[operator]


def test_gap_recovered_is_given_only_where_the_teacher_is_better_than_the_control() -> None:
    logits, labels = drawn(800, {"teacher": 4.0, "student": 3.0, "control": 1.0})
    scored = score(logits, labels, NAMES, teacher="teacher", resamples=300, seed=0)
    accuracy = {name: one.metrics["accuracy"].value for name, one in scored.items()}
    gap = gap_recovered(scored["student"], scored["control"], scored["teacher"], "accuracy")
    assert gap is not None
    expected = (accuracy["student"] - accuracy["control"]) / (accuracy["teacher"] - accuracy["control"])
    assert gap.value == pytest.approx(expected)
    assert gap_recovered(scored["student"], scored["teacher"], scored["teacher"], "accuracy") is None
    for metric in ("accuracy", "log_loss"):
        assert gap_recovered(scored["student"], scored["control"], scored["teacher"], metric)
        assert gap_recovered(scored["student"], scored["teacher"], scored["control"], metric) is None


def test_classes_come_worst_first_and_only_those_that_occur() -> None:
    logits, labels = drawn(200, {"teacher": 3.0, "student": 1.0})
    labels[labels == 3] = 2
    classes = score(logits, labels, NAMES, teacher="teacher", resamples=100, seed=0)["student"].classes
    assert {one.label for one in classes} == {"a", "b", "c"}
    assert sum(one.n for one in classes) == 200
    assert [one.f1.value for one in classes] == sorted(one.f1.value for one in classes)


def test_rows_without_labels_can_only_be_imitated() -> None:
    logits, _ = drawn(50, {"teacher": 3.0, "student": 1.0})
    scored = score(logits, None, NAMES, teacher="teacher", resamples=100, seed=0)
    assert set(scored["student"].metrics) == {"agreement", "kl"}
    alone = score({"student": logits["student"]}, None, NAMES, teacher=None, resamples=100, seed=0)
    assert alone["student"].metrics == {}
    assert scored["teacher"].metrics == {}


def test_one_row_has_no_interval() -> None:
    logits, labels = drawn(1, {"teacher": 3.0, "student": 1.0})
    scored = score(logits, labels, NAMES, teacher="teacher", resamples=100, seed=0)["student"]
    assert (scored.metrics["accuracy"].low, scored.metrics["accuracy"].high) == (None, None)


def test_thousands_of_rows_take_seconds() -> None:
    logits, labels = drawn(3000, {"teacher": 4.0, "before": 0.0, "control": 1.0, "student": 2.0}, classes=10)
    started = time.process_time()
    with warnings.catch_warnings():
        score(logits, labels, [str(i) for i in range(10)], teacher="teacher", resamples=2000, seed=0)
    assert time.process_time() - started < 10


# ---- numbers


def in_units(z: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = 70.0 * z + 150.0
    return found


def told(n: int, noise: dict[str, float]) -> tuple[dict[str, list[NDArray[Any]]], NDArray[Any]]:
    """Standardized answers (n, 1) of columns of different error about the same labels."""
    chance = np.random.default_rng(0)
    labels = chance.normal(size=n).astype(np.float32)
    return {
        name: [(labels + error * chance.normal(size=n)).astype(np.float32)[:, None]]
        for name, error in noise.items()
    }, labels


def test_errors_are_in_the_unit_of_the_data_and_those_of_scikit_learn() -> None:
    judge, labels = OfNumbers(in_units), np.array([0.0, 1.0, -1.0], np.float32)
    metrics = judge.truth(np.array([[0.1], [1.0], [-1.2]], np.float32), labels)
    assert metrics["rmse"] == pytest.approx(70 * np.sqrt(0.05 / 3), rel=1e-5)
    assert metrics["mae"] == pytest.approx(70 * 0.1, rel=1e-5)
    assert metrics["r2"] == pytest.approx(1 - 0.05 / 2, rel=1e-5)
    assert judge.truth(np.zeros((2, 1)), np.ones(2))["r2"] == 0
    assert "r2" not in judge.truth(np.zeros((1, 1)), np.ones(1))
    near = judge.likeness(np.array([[1.0], [0.0]]), np.array([[0.0], [0.0]]))
    assert near == {"rmse_to_teacher": pytest.approx(70 * np.sqrt(0.5))}


def test_a_resample_of_numbers_gives_what_scikit_learn_says_of_it() -> None:
    columns, labels = told(60, {"teacher": 0.2, "student": 0.4})
    judge = OfNumbers(in_units)
    scored = score_columns(columns, labels, ["y"], judge=judge, teacher="teacher", resamples=100, seed=4)
    rows = np.random.default_rng(4).integers(0, 60, (100, 60))[17]
    student, teacher = (columns[name][0][rows] for name in ("student", "teacher"))
    for name, value in (judge.truth(student, labels[rows]) | judge.likeness(student, teacher)).items():
        assert scored["student"].drawn[name][17] == pytest.approx(value, rel=1e-5)
    assert scored["student"].classes == []
    gap = difference(scored["student"], scored["teacher"])["rmse"]
    assert gap.excludes_zero
    assert gap.value == pytest.approx(70 * 0.2, rel=0.5)


# ---- seeds


def test_several_seeds_widen_the_interval_by_what_they_differ_by() -> None:
    """Two seeds of very unlike students: the mean in the middle, the interval over both."""
    logits, labels = drawn(400, {"teacher": 4.0, "good": 4.0, "bad": 0.0})
    asked: dict[str, Any] = {"judge": OfClasses(), "teacher": "teacher", "resamples": 500, "seed": 0}
    one = score_columns({"teacher": [logits["teacher"]], "student": [logits["good"]]}, labels, NAMES, **asked)
    runs = {"teacher": [logits["teacher"]], "student": [logits["good"], logits["bad"]]}
    two = score_columns(runs, labels, NAMES, **asked)["student"]
    apart = [truth_metrics(logits[name], labels)["accuracy"] for name in ("good", "bad")]
    assert [run["accuracy"] for run in two.runs] == apart
    assert two.metrics["accuracy"].value == pytest.approx(np.mean(apart))
    narrow, wide = one["student"].metrics["accuracy"], two.metrics["accuracy"]
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)  # type: ignore[operator]
    assert wide.low < apart[1] + 0.05  # type: ignore[operator]


def test_seeds_are_paired_between_columns() -> None:
    """A control that is worse by the same in every seed differs by that, however much the seeds vary."""
    logits, labels = drawn(400, {"teacher": 4.0, "good": 4.0, "bad": 1.0})
    runs = {"teacher": [logits["teacher"]], "student": [logits["good"], logits["bad"]]}
    scored = score_columns(
        runs | {"control": runs["student"]}, labels, NAMES,
        judge=OfClasses(), teacher="teacher", resamples=300, seed=0,
    )  # fmt: skip
    nothing = difference(scored["student"], scored["control"])["accuracy"]
    assert (nothing.low, nothing.high) == (0.0, 0.0)


def test_errors_that_come_from_the_teacher_are_counted_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1])
    teacher = np.eye(3)[[1, 1, 2, 0, 1]]  # wrong three times
    student = np.eye(3)[[1, 2, 0, 2, 1]]  # wrong three times, once as the teacher
    control = np.eye(3)[[2, 0, 2, 0, 1]]  # wrong twice, once as the teacher
    found = inherited(OfClasses(), teacher, labels, [student], [control])
    assert found is not None
    assert (found.errors, found.inherited, found.control) == (3, 1, 0.5)
    assert found.share == pytest.approx(1 / 3)
    perfect = inherited(OfClasses(), teacher, labels, [np.eye(3)[labels]], [])
    assert perfect is not None
    assert (perfect.share, perfect.control) == (None, None)
    assert inherited(OfNumbers(in_units), teacher, labels, [student], []) is None
