"""What a report says of several seeds, of parts of the rows, and of what the student has from its teacher."""

import json
from typing import Any

import numpy as np
import pytest
from torch import nn

from app.db.tables import Job
from tests.worker.workshop import DIGITS, Workshop, digits, order, table
from worker.engine.judging.classes import OfClasses
from worker.engine.judging.slices import MISSING, cut

X, Y = digits()
QUICK = {"epochs": 2, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}, "seed": 7}


def report_of(workshop: Workshop, job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workshop.artifact(job, "report.json"))
    return found


def test_three_seeds_are_three_trainings_of_student_and_control(
    workshop: Workshop, expert: nn.Module
) -> None:
    train = workshop.data(table(X[:300], Y[:300]))
    test = workshop.data(table(X[1200:], Y[1200:]), split="test")
    teacher = workshop.perceptron(expert, (64, 64))
    spec = {
        "training": QUICK,
        "exports": [{"kind": "safetensors"}],
        "evaluation": {"bootstrap": 200, "seeds": 3, "slices": ["label"]},
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [8]}, "limits": {"max_parameters": 610}},
    }
    job = workshop.carry_out(order([teacher], train, spec=spec, test=test))
    report = report_of(workshop, job)
    columns = {column["name"]: column for column in report["columns"]}
    assert report["seeds"] == [7, 8, 9]
    for name in ("student", "control"):
        found = [one["metrics"]["accuracy"] for one in columns[name]["seeds"]]
        assert [one["seed"] for one in columns[name]["seeds"]] == [7, 8, 9]
        assert len(set(found)) > 1  # they were trained, each in its own way
        assert columns[name]["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(found))
    assert columns["teacher"]["seeds"] == []
    assert "3 seeds)" in report["verdict"]
    assert "that of seed 7" in report["notes"][0]
    assert "rather too narrow" in report["notes"][0]
    assert list(report["training"]) == [
        "student", "student, seed 8", "student, seed 9", "control", "control, seed 8", "control, seed 9",
    ]  # fmt: skip

    # the file that leaves is the first seed's: its export answers as that run did
    first = columns["student"]["seeds"][0]["metrics"]["accuracy"]
    exported = report["exports"][0]
    assert exported["compared_rows"] == 512
    assert exported["value"] == pytest.approx(first, abs=0.05)
    assert exported["likeness"] == 1.0

    assert [gate["gate"]["limit"] for gate in report["gates"]] == ["max_parameters"]
    assert report["cost"]["flops"] == 2 * (64 * 8 + 8 * 10)
    assert report["cost"]["weight_bytes"] == 4 * 610
    assert report["cost"]["peak_bytes"] >= report["cost"]["weight_bytes"] + 4 * 8
    assert 0 <= report["inherited"]["share"] <= 1

    by_label = {one["value"]: one for one in report["slices"]}
    assert list(by_label) == DIGITS
    assert {value: one["n"] for value, one in by_label.items()} == {
        str(digit): int((Y[1200:] == digit).sum()) for digit in range(10)
    }
    recall = {one["label"]: one["recall"] for one in columns["student"]["classes"]}
    for value, one in by_label.items():
        assert one["metrics"]["student"]["accuracy"]["value"] == pytest.approx(recall[value])
        assert set(one["differences"]) == {"control", "teacher"}
    text = workshop.artifact(job, "report.md").decode()
    for title in ("## accuracy by seed", "## accuracy by label", "## Gates", "FLOPs"):
        assert title in text


def test_a_teacher_that_is_not_compared_stands_in_no_slice_and_may_be_a_bar(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    gate = {"metric": "accuracy", "versus": "teacher", "min_ratio": 0.1}
    evaluation = {"bootstrap": 100, "compare": ["control"], "slices": ["label"], "gates": [gate]}
    spec = {"training": QUICK, "exports": [{"kind": "safetensors"}], "evaluation": evaluation}
    report = report_of(workshop, workshop.carry_out(order([teacher], train, spec=spec)))
    assert [column["name"] for column in report["columns"]] == ["student_before", "control", "student"]
    assert {name for one in report["slices"] for name in one["metrics"]} == {"control", "student"}
    assert {name for one in report["slices"] for name in one["differences"]} == {"control"}
    assert [one["passed"] for one in report["gates"]] == [True]


def test_a_slice_is_the_same_as_scoring_its_rows_alone() -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 3, 90)
    logits = {name: [chance.normal(size=(90, 3))] for name in ("teacher", "control", "student")}
    place: list[str | None] = ["10"] * 40 + ["9"] * 30 + [None] * 20
    asked: dict[str, Any] = {"judge": OfClasses(), "teacher": "teacher", "resamples": 100, "seed": 0}
    found = cut("place", place, logits, labels, ["a", "b", "c"], **asked)
    assert [(one.value, one.n) for one in found] == [("9", 30), ("10", 40), (MISSING, 20)]
    accuracy = (logits["student"][0][40:70].argmax(-1) == labels[40:70]).mean()
    assert found[0].metrics["student"]["accuracy"].value == pytest.approx(accuracy)
    assert found[0].inherited is not None
    unlabeled = cut("place", place, logits, None, ["a", "b", "c"], **asked)
    assert set(unlabeled[0].metrics["student"]) == {"agreement", "kl"}
    assert unlabeled[0].inherited is None


def test_a_slice_of_one_row_has_values_without_intervals() -> None:
    logits = {name: [np.eye(2)[[0, 1]]] for name in ("teacher", "student")}
    asked: dict[str, Any] = {"judge": OfClasses(), "teacher": "teacher", "resamples": 100, "seed": 0}
    one, _ = cut("place", ["a", "b"], logits, np.array([0, 1]), ["x", "y"], **asked)
    found = one.metrics["student"]["accuracy"]
    assert (found.value, found.low) == (1.0, None)
