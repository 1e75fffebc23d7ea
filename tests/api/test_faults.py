"""A complaint of pydantic's says where, what, and the way out, and nothing of how a union is built."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.api.faults import MAX_FAULTS, faults_in
from app.catalog.spec import JobSpec
from app.errors import Fault

SMALLEST: dict[str, Any] = {
    "task": {"kind": "tabular_classification"},
    "teachers": [{"model": "model:big"}],
    "student": {"architecture": {"kind": "mlp"}},
    "data": {"train": "dataset:rows"},
}


def faults_of(body: Any) -> list[Fault]:
    try:
        JobSpec.model_validate(body)
    except ValidationError as error:
        complaints = [{**complaint, "loc": ("body", *complaint["loc"])} for complaint in error.errors()]
        return faults_in(complaints, body, JobSpec)
    return []


def only_fault_of(**changes: Any) -> Fault:
    (fault,) = faults_of(SMALLEST | changes)
    return fault


def test_the_smallest_job_has_no_fault() -> None:
    assert faults_of(SMALLEST) == []


def test_an_unknown_field_is_named_with_its_nearest_neighbor() -> None:
    fault = only_fault_of(trainning={})
    assert (fault.pointer, fault.code) == ("/trainning", "unknown_field")
    assert "Did you mean `training`?" in fault.fix


def test_within_a_plug_in_its_own_fields_are_known_and_its_kind_is_no_part_of_the_pointer() -> None:
    fault = only_fault_of(losses=[{"kind": "cross_entropy"}, {"kind": "kd", "temprature": 2}])
    assert fault.pointer == "/losses/1/temprature"
    assert "Did you mean `temperature`?" in fault.fix
    assert "standardize" in fault.fix


def test_an_unknown_kind_lists_what_exists() -> None:
    fault = only_fault_of(losses=[{"kind": "kdd"}])
    assert (fault.pointer, fault.code) == ("/losses/0/kind", "unknown_kind")
    assert "Did you mean `kd`?" in fault.fix
    assert "cross_entropy" in fault.fix
    assert "kdd" not in fault.detail + fault.fix


def test_a_missing_kind_lists_what_exists() -> None:
    fault = only_fault_of(student={"architecture": {"depth": 2}})
    assert (fault.pointer, fault.code) == ("/student/architecture/kind", "missing")
    assert "mlp" in fault.fix


def test_a_missing_field_says_what_belongs_there() -> None:
    fault = only_fault_of(data={})
    assert (fault.pointer, fault.code) == ("/data/train", "missing")
    assert "labeled rows" in fault.fix


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"losses": [{"kind": "kd", "temperature": -1}]}, ["/losses/0/temperature"]),
        ({"losses": [{"kind": "kd", "temperature": "hot"}]}, ["/losses/0/temperature"]),
        ({"losses": [{"kind": "kd", "temperature": {"from": 1, "to": -1}}]},
         ["/losses/0/temperature/to", "/losses/0/temperature/over_epochs"]),
        ({"losses": {"preset": "hinton", "alpha": 2}}, ["/losses/alpha"]),
        ({"losses": []}, ["/losses"]),
        ({"losses": 3}, ["/losses"]),
        ({"data": {"train": "dataset:rows", "validation": {"holdout": 1}}}, ["/data/validation/holdout"]),
        ({"data": {"train": "dataset:rows", "validation": "rows"}}, ["/data/validation"]),
        ({"data": {"train": "dataset:rows", "columns": {"input": [1]}}}, ["/data/columns/input/0"]),
        ({"labels": {"a b": "c"}}, ["/labels/a b"]),
        ({"exports": [{"kind": "onnx"}, {"kind": "onnx"}]}, ["/exports"]),
        ({"scheme": {"kind": "online"}}, ["/scheme/kind"]),
        ({"a/b~c": 1}, ["/a~1b~0c"]),
        ({"kind": "x"}, ["/kind"]),
        ({"task": {"kind": "image_classification", "image_size": [32]}}, ["/task/image_size/1"]),
    ],
)  # fmt: skip
def test_of_a_union_only_the_branch_that_was_meant_speaks(changes: Any, pointers: list[str]) -> None:
    faults = faults_of(SMALLEST | changes)
    assert [fault.pointer for fault in faults] == pointers
    assert all(fault.detail and fault.fix for fault in faults)


@pytest.mark.parametrize("body", [None, 3, "text", [], [{}]])
def test_a_body_that_is_no_object_has_one_fault(body: Any) -> None:
    (fault,) = faults_of(body)
    assert (fault.pointer, fault.detail) == ("", "It should be a JSON object.")


def test_nothing_that_was_sent_comes_back_in_a_sentence() -> None:
    secret = "hunter2"
    for changes in (
        {"losses": [{"kind": secret}]},
        {"name": {secret: secret}},
        {"training": {"epochs": secret}},
        {"evaluation": {"compare": [secret]}},
        {"teachers": [{"model": secret}]},
    ):
        assert all(secret not in fault.detail + fault.fix for fault in faults_of(SMALLEST | changes))


def test_a_thousand_faults_are_not_all_told() -> None:
    assert 1 <= len(faults_of(SMALLEST | {"losses": [{}] * 1000})) <= MAX_FAULTS


def test_a_query_parameter_is_pointed_at_too() -> None:
    complaint = {
        "type": "int_parsing",
        "loc": ("query", "limit"),
        "msg": "Input should be a valid integer, no",
    }
    (fault,) = faults_in([complaint], None, None)
    assert (fault.pointer, fault.fix) == ("/query/limit", "Send a valid integer.")


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"teachers": [{"model": "big"}]}, "Write model:NAME, model:NAME@VERSION, model:NAME@ALIAS, "),
        ({"data": {"train": "rows"}}, "Write dataset:NAME, dataset:NAME@VERSION or hf:ORG/REPO@"),
        ({"losses": []}, "Send at least 1 item."),
    ],
)
def test_the_way_out_is_told_in_words_and_never_as_a_pattern(changes: Any, fix: str) -> None:
    fault = only_fault_of(**changes)
    assert fix in fault.fix
    assert "^" not in fault.detail + fault.fix
