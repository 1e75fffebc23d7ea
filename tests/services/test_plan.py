"""What a plan finds wrong, each with its pointer and its way out, before a job exists."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec
from app.db.tables import Dataset
from app.errors import (
    DatasetTooSmall,
    Invalid,
    InvalidData,
    InvalidSpec,
    LabelMismatch,
    ShapeMismatch,
    UnknownReference,
    WillNotFit,
)
from app.services.planning.plan import Plan, plan, resolve
from app.settings import Settings
from tests import orders


def planned(shop: Session, **changes: Any) -> Plan:
    return plan(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def refused(shop: Session, **changes: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        resolve(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))
    assert all(fault.pointer.startswith("/") and fault.fix for fault in caught.value.faults)
    assert not planned(shop, **changes).ok
    return caught.value


def pointers(error: Invalid) -> list[str]:
    return [fault.pointer for fault in error.faults]


def data(**changes: Any) -> dict[str, Any]:
    return {**orders.spec()["data"], **changes}


def test_a_good_order_is_costed_and_everything_in_it_is_pinned(shop: Session) -> None:
    found = planned(shop)
    assert found.ok
    assert found.resolved is not None
    assert found.estimate is not None
    assert found.estimate.student_parameters == 2 * 4 + 4 + 4 * 3 + 3
    assert found.estimate.times_smaller == round(5000 / 27, 1)
    assert found.estimate.training_rows == 54  # 60, of which a tenth is held out
    assert (found.resolved.labels, found.resolved.data.inputs) == (orders.CLASSES, orders.FEATURES)
    assert found.resolved.data.train.reference == "dataset:iris@1#train"
    assert {check.status for check in found.checks} == {"ok"}


def test_the_resolved_order_reads_itself_back(shop: Session) -> None:
    resolved = planned(shop).resolved
    assert resolved is not None
    assert type(resolved).model_validate(resolved.model_dump(mode="json")) == resolved


def test_several_faults_are_told_at_once(shop: Session) -> None:
    error = refused(shop, teachers=[{"model": "model:nobody"}], data=data(test="dataset:nothing"))
    assert isinstance(error, UnknownReference)
    assert pointers(error) == ["/teachers/0/model", "/data/test"]


def test_an_alias_is_pinned_to_its_version(shop: Session) -> None:
    assert refused(shop, teachers=[{"model": "model:botanist@champion"}]).code == "unknown_reference"


def test_teacher_and_data_with_other_labels(shop: Session) -> None:
    orders.teacher(shop, name="zoologist", labels=["cat", "dog", "setosa"])
    error = refused(shop, teachers=[{"model": "model:zoologist"}])
    assert isinstance(error, LabelMismatch)
    assert pointers(error) == ["/teachers/0"]
    assert "versicolor" in error.faults[0].detail


def test_labels_in_another_order_are_put_in_order_by_name(shop: Session) -> None:
    orders.teacher(shop, name="second", labels=orders.CLASSES[::-1])
    both = [{"model": "model:botanist"}, {"model": "model:second", "weight": 3}]
    resolved = planned(shop, teachers=both, ensemble="mean_logits").resolved
    assert resolved is not None
    assert [teacher.order for teacher in resolved.teachers] == [[[0], [1], [2]], [[2], [1], [0]]]
    assert [teacher.weight for teacher in resolved.teachers] == [1, 3]


def test_several_teachers_need_a_rule(shop: Session) -> None:
    orders.teacher(shop, name="second")
    error = refused(shop, teachers=[{"model": "model:botanist"}, {"model": "model:second"}])
    assert (type(error), pointers(error)) == (InvalidSpec, ["/ensemble"])


def test_teachers_must_know_the_same_labels(shop: Session) -> None:
    orders.teacher(shop, name="wider", labels=[*orders.CLASSES, "rose"])
    both = [{"model": "model:botanist"}, {"model": "model:wider"}]
    error = refused(shop, teachers=both, ensemble="mean_logits")
    assert (type(error), pointers(error)) == (LabelMismatch, ["/teachers/1/label_map"])


def test_a_teacher_of_another_task(shop: Session) -> None:
    orders.teacher(shop, name="seer", task="image_classification")
    assert pointers(refused(shop, teachers=[{"model": "model:seer"}])) == ["/task/kind"]


def test_a_teacher_that_reads_another_number_of_columns(shop: Session) -> None:
    wide = {"features": [{"name": "", "kind": "number"}] * 7}
    orders.teacher(shop, name="wide", preprocessing=wide, input={"modality": "vector", "shape": [7]})
    assert isinstance(refused(shop, teachers=[{"model": "model:wide"}]), ShapeMismatch)


def test_a_student_that_cannot_take_the_input(shop: Session) -> None:
    error = refused(shop, student={"architecture": {"kind": "resnet"}})
    assert isinstance(error, ShapeMismatch)
    assert pointers(error) == ["/student/architecture"]


def test_a_student_of_a_trillion_parameters_is_costed_and_refused(shop: Session) -> None:
    huge = {"kind": "mlp", "hidden_sizes": [1_000_000, 1_000_000]}
    with pytest.raises(Invalid) as caught:
        resolve(
            shop,
            Settings(),
            orders.PROJECT,
            JobSpec.model_validate(orders.spec(student={"architecture": huge})),
        )
    assert isinstance(caught.value, WillNotFit)
    assert "1,000,0" in caught.value.detail


def test_an_export_that_the_family_cannot_leave_as(shop: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.catalog.architectures.mlp import MLP

    monkeypatch.setattr(MLP, "exports", frozenset({"safetensors"}))
    assert pointers(refused(shop, exports=[{"kind": "safetensors"}, {"kind": "onnx"}])) == ["/exports/1/kind"]


def test_too_few_rows(shop: Session) -> None:
    orders.dataset(shop, name="few", rows=9)
    error = refused(shop, data={"train": "dataset:few#train"})
    assert isinstance(error, DatasetTooSmall)
    assert pointers(error) == ["/data/train"]


def test_a_holdout_that_leaves_too_few_rows_to_learn_from(shop: Session) -> None:
    error = refused(shop, data=data(validation={"holdout": 0.9}))
    assert (type(error), pointers(error)) == (DatasetTooSmall, ["/data/train"])


@pytest.mark.parametrize(
    "losses",
    [
        [{"kind": "kd", "weight": -1}],
        [{"kind": "kd", "weight": 0}, {"kind": "dkd", "weight": 0}],
        [{"kind": "kd", "weight": {"from": 0, "to": 0, "over_epochs": 3}}],
        [{"kind": "jsd", "beta": 0, "normalize": False}],
    ],
)
def test_losses_that_teach_nothing_or_the_opposite(losses: Any) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(orders.spec(losses=losses))


def test_a_holdout_of_too_few_rows(shop: Session) -> None:
    error = refused(shop, data=data(validation={"holdout": 0.01}))
    assert (type(error), pointers(error)) == (DatasetTooSmall, ["/data/validation/holdout"])


@pytest.mark.parametrize(
    ("columns", "pointer"),
    [
        ({"label": "nothing"}, "/data/columns/label"),
        ({"label": "petal_width"}, "/data/columns/label"),
        ({"input": ["petal_width", "nothing"]}, "/data/columns/input"),
        ({"input": ["petal_width", "species"]}, "/data/columns/input"),
    ],
)
def test_columns_that_are_not_there_or_not_fit(shop: Session, columns: Any, pointer: str) -> None:
    error = refused(shop, data=data(columns=columns))
    assert isinstance(error, InvalidData)
    assert pointers(error) == [pointer]


def test_judging_on_the_training_rows_is_a_warning(shop: Session) -> None:
    found = planned(shop, data=data(test="dataset:iris"))  # without a split it means #train
    warned = {check.pointer: check.detail for check in found.checks if check.code == "training_rows"}
    assert found.ok
    assert list(warned) == ["/data/test"]
    assert "dataset:iris@1#train" in warned["/data/test"]


def test_learning_from_rows_that_judge_is_a_warning(shop: Session) -> None:
    found = planned(shop, data=data(unlabeled=["dataset:iris#test"]))
    assert [check.pointer for check in found.checks if check.code == "judged_rows"] == ["/data/unlabeled/0"]
    assert found.ok


def test_rows_without_labels_are_held_out_and_costed_alike(shop: Session) -> None:
    iris = shop.scalars(select(Dataset)).one()
    profile = copy.deepcopy(iris.profile)
    for split in profile["splits"].values():
        split["columns"]["species"]["counts"] = {}
    iris.profile = profile
    found = planned(shop, losses=[{"kind": "kd"}], data=data(validation={"holdout": 0.1}))
    assert found.estimate is not None
    assert (found.estimate.labeled_rows, found.estimate.training_rows) == (0, 54)


def test_what_is_allowed_but_unwise_is_a_warning_with_its_reason(shop: Session) -> None:
    orders.teacher(shop, name="tiny", parameters=3)
    found = planned(
        shop,
        teachers=[{"model": "model:tiny"}],
        data={"train": "dataset:iris#train"},
        training={"epochs": 1},
        output={"model": "tiny"},
        exports=[{"kind": "safetensors"}],
        resources={"accelerator": "cuda"},
    )
    assert found.ok
    warned = {check.code for check in found.checks if check.status == "warn"}
    assert warned == {"not_smaller", "not_served", "no_test_rows", "no_worker", "few_steps", "teachers_name"}
