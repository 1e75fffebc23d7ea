"""What a plan finds wrong with what is to be measured, and orders whose answers are numbers."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.catalog.spec import LOSSES, JobSpec
from app.errors import Invalid
from app.intake.profile import Profile
from app.services import datasets
from app.services.datasets import Prepared, StoredSplit
from app.services.planning.plan import Plan, plan, resolve
from app.settings import Settings
from tests import orders

NUMBERS: dict[str, Any] = {
    "task": {"kind": "tabular_regression"},
    "teachers": [{"model": "model:valuer"}],
    "data": {"train": "dataset:houses#train", "test": "dataset:houses#test"},
}


@pytest.fixture
def shop(shop: Session) -> Session:
    _houses(shop)
    orders.teacher(
        shop, name="valuer", task="tabular_regression", labels=["value"],
        preprocessing={"features": [{"name": "rooms"}, {"name": "area"}]},
    )  # fmt: skip
    return shop


def _houses(session: Session) -> None:
    columns = {
        "rooms": {"type": "number", "mean": 4.0, "std": 2.0, "distinct": 9},
        "area": {"type": "number", "mean": 90.0, "std": 30.0, "distinct": 400},
        "town": {"type": "category", "counts": {f"town {place}": 10 for place in range(60)}},
        "street": {"type": "text"},
        "price": {"type": "category", "mean": 200.0, "std": 50.0, "missing": 100},
    }
    split = {"rows": 600, "columns": columns, "bad_rows": {}, "duplicates": 0}
    profile = Profile.model_validate(
        {"label": "price", "splits": {"train": split, "test": split}, "leaks": []}
    )
    files = {name: StoredSplit(sha256="a" * 64, size=1000, rows=600) for name in ("train", "test")}
    datasets.create(
        session, orders.PROJECT, "houses", Prepared(digest="b" * 64, files=files, profile=profile)
    )


def planned(shop: Session, **changes: Any) -> Plan:
    return plan(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def refused(shop: Session, **changes: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        resolve(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))
    assert all(fault.pointer.startswith("/") and fault.fix for fault in caught.value.faults)
    return caught.value


def where(error: Invalid) -> list[str]:
    return [fault.pointer for fault in error.faults]


# ---- numbers


def test_an_order_for_numbers_is_resolved(shop: Session) -> None:
    found = planned(shop, **NUMBERS)
    assert found.ok, found.checks
    assert found.resolved is not None
    assert found.estimate is not None
    assert found.resolved.labels == ["price"]
    assert found.resolved.teachers[0].order == [[0]]
    assert found.resolved.preprocessing["target"] == {"mean": 200.0, "std": 50.0}
    assert [term.kind for term in found.resolved.spec.terms()] == ["logit_mse", "task"]
    assert (found.estimate.training_rows, found.estimate.labeled_rows) == (550, 450)


@pytest.mark.parametrize("label", ["town", "street"])
def test_a_label_that_is_no_number(shop: Session, label: str) -> None:
    data = {**NUMBERS["data"], "columns": {"label": label, "input": ["rooms", "area"]}}
    assert where(refused(shop, **{**NUMBERS, "data": data})) == ["/data/columns/label"]


def test_losses_over_classes_are_refused_for_numbers_with_those_that_fit(shop: Session) -> None:
    over_classes = [
        kind for kind, loss in LOSSES.items() if "logits" in loss.needs and "number" not in loss.answers
    ]
    assert {"kd", "dkd", "dist", "cross_entropy"} <= set(over_classes)
    for kind in over_classes:
        error = refused(shop, **NUMBERS, losses=[{"kind": kind}])
        assert where(error) == ["/losses/0"]
        assert "logit_mse" in error.faults[0].fix
        assert "task" in error.faults[0].fix
    assert where(refused(shop, losses=[{"kind": "task"}])) == ["/losses/0"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"losses": {"preset": "hinton", "temperature": 2.0}}, "/losses/temperature"),
        ({"signals": {"dtype": "float16"}}, "/signals/dtype"),
        ({"signals": {"top_k": 1}}, "/signals/top_k"),
        ({"training": {"early_stopping": {"metric": "accuracy"}}}, "/training/early_stopping/metric"),
        ({"evaluation": {"gates": [{"min": 0.9}]}}, "/evaluation/gates/0/metric"),
        (
            {"evaluation": {"gates": [{"metric": "r2", "versus": "teacher", "min_ratio": 0.9}]}},
            "/evaluation/gates/0/min_ratio",
        ),
        (
            {"teachers": [{"model": "model:valuer", "label_map": {"value": "price"}}]},
            "/teachers/0/label_map",
        ),
        ({"teachers": [{"model": "model:valuer"}] * 2, "ensemble": "mean_probabilities"}, "/ensemble"),
    ],
)
def test_what_numbers_do_not_have(shop: Session, changes: dict[str, Any], pointer: str) -> None:
    assert where(refused(shop, **{**NUMBERS, **changes})) == [pointer]


def test_a_step_is_chosen_by_labels_only_where_there_are_some(shop: Session) -> None:
    data = {"train": "dataset:iris#train", "test": "dataset:iris#test", "validation": orders.unlabeled(shop)}
    stopping = {"early_stopping": {"metric": "macro_f1"}}
    error = refused(shop, data=data, training=stopping)
    assert where(error) == ["/training/early_stopping/metric"]
    assert error.faults[0].detail == "macro_f1 needs labels, and no row of dataset:bare@1#train has one"
    assert planned(shop, data=data, training={"early_stopping": {}}).ok
    assert planned(shop, training=stopping).ok


def test_the_preset_without_a_temperature_and_metrics_of_numbers_are_fine(shop: Session) -> None:
    found = planned(
        shop,
        **NUMBERS,
        losses={"preset": "hinton", "alpha": 0.5},
        evaluation={
            "gates": [{"metric": "rmse", "versus": "teacher", "min_ratio": 0.9}],
            "slices": ["rooms"],
        },
    )
    assert found.ok, found.checks


# ---- gates, slices, limits


@pytest.mark.parametrize(
    ("gate", "pointer", "says"),
    [
        ({"metric": "acuracy", "min": 0.9}, "/metric", "macro_f1"),
        ({"metric": "rmse", "max": 3}, "/metric", "accuracy"),
        ({"metric": "agreement", "versus": "teacher", "min_ratio": 1}, "/versus", "min or max"),
        ({"metric": "accuracy", "min": 95}, "/min", "0.95 is 95 %"),
        ({"metric": "ece", "max": -0.1}, "/max", "a share of 1"),
        (
            {"metric": "macro_f1", "versus": "control", "min_difference": -2},
            "/min_difference",
            "a share of 1",
        ),
    ],
)
def test_a_gate_that_cannot_be_read(shop: Session, gate: dict[str, Any], pointer: str, says: str) -> None:
    error = refused(shop, evaluation={"gates": [{"min": 0.5}, gate]})
    assert where(error) == [f"/evaluation/gates/1{pointer}"]
    assert says in error.faults[0].fix


def test_a_gate_against_a_control_that_is_not_there(shop: Session) -> None:
    gate = {"versus": "control", "min_difference": 0.0}
    error = refused(shop, evaluation={"gates": [gate], "compare": ["teacher"]})
    assert where(error) == ["/evaluation/gates/0/versus"]
    assert planned(shop, evaluation={"gates": [gate]}).ok


@pytest.mark.parametrize("name", ["town", "area", "street", "price"])
def test_a_slice_by_too_many_values_names_its_column(shop: Session, name: str) -> None:
    error = refused(shop, **NUMBERS, evaluation={"slices": ["rooms", name]})
    assert where(error) == ["/evaluation/slices/1"]
    assert name in error.detail


def test_a_slice_by_a_column_that_is_not_there(shop: Session) -> None:
    error = refused(shop, evaluation={"slices": ["colour"]})
    assert where(error) == ["/evaluation/slices/0"]
    assert "species" in error.faults[0].fix
    assert planned(shop, evaluation={"slices": ["label", "species"]}).ok


def test_limits_of_the_device(shop: Session) -> None:
    student = {"architecture": {"kind": "mlp", "hidden_sizes": [4]}}
    error = refused(shop, student={**student, "limits": {"max_parameters": 26}})
    assert (where(error), error.code) == (["/student/limits/max_parameters"], "will_not_fit")
    assert planned(shop, student={**student, "limits": {"max_parameters": 27}}).ok
    found = planned(shop, student={**student, "limits": {"max_bytes": 107}})
    warned = [check.pointer for check in found.checks if check.status == "warn"]
    assert (found.ok, warned) == (True, ["/student/limits/max_bytes"])
    error = refused(
        shop,
        student={**student, "limits": {"max_latency_ms": 1}},
        exports=[{"kind": "safetensors"}],
    )
    assert where(error) == ["/student/limits/max_latency_ms"]
