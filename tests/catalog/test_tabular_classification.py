import math
from typing import Any

import numpy as np
import pytest

from app.catalog.base import Column, Input
from app.catalog.tabular import Feature, Preprocessing
from app.catalog.tasks.tabular_classification import TabularClassification
from app.errors import Invalid, InvalidData, ShapeMismatch

TASK = TabularClassification()
COLUMNS = {
    "age": Column(type="number", mean=40.0, std=10.0),
    "flat": Column(type="number", mean=7.0, std=0.0),
    "empty": Column(type="number", missing=9),
    "size": Column(type="category", counts={"10": 1, "9": 2}),
    "note": Column(type="text"),
    "picture": Column(type="image"),
    "label": Column(type="category", counts={"a": 1, "b": 1}),
}
INPUTS = ["age", "flat", "empty", "size"]
PREPROCESSING = TASK.preprocessing(COLUMNS, INPUTS, None)
ROW: dict[str, Any] = {"age": 50, "flat": 8.0, "empty": None, "size": 10}


def test_numbers_and_small_categories_are_inputs_and_the_label_is_not() -> None:
    assert TASK.input_columns(COLUMNS, "label") == INPUTS
    with pytest.raises(InvalidData, match=r"note \(text\)"):
        TASK.input_columns({name: COLUMNS[name] for name in ("note", "label")}, "label")
    with pytest.raises(InvalidData, match="'note' holds text") as refused:
        TASK.preprocessing(COLUMNS, ["age", "note"], None)
    assert refused.value.faults[0].pointer == "/data/columns/input/1"


def test_a_row_becomes_standardized_numbers_and_one_hot_categories() -> None:
    assert TASK.input(PREPROCESSING) == Input(modality="vector", shape=(5,))
    assert TASK.encode(ROW, PREPROCESSING).dtype == np.float32
    assert TASK.encode(ROW, PREPROCESSING).tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]  # "9" stands before "10"
    missing = {"age": None, "flat": math.nan, "empty": 3.5, "size": None}
    assert TASK.encode(missing, PREPROCESSING).tolist() == [0.0, 0.0, 3.5, 0.0, 0.0]
    assert TASK.encode({**ROW, "size": "never seen", "more": 1}, PREPROCESSING).tolist()[3:] == [0.0, 0.0]
    assert (
        TASK.encode({**ROW, "size": "9"}, PREPROCESSING).tolist()
        == TASK.encode({**ROW, "size": 9.0}, PREPROCESSING).tolist()
    )
    batch = TASK.encode(ROW, PREPROCESSING)[None]
    assert TASK.normalize(batch, PREPROCESSING) is batch


@pytest.mark.parametrize("value", ["50", True, [1], {"a": 1}, "x" * 9999])
def test_a_value_of_the_wrong_type_names_its_column(value: Any) -> None:
    with pytest.raises(InvalidData, match="'age' needs a number or null") as refused:
        TASK.encode({**ROW, "age": value}, PREPROCESSING)
    assert len(refused.value.detail) < 120


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**400, 1e45, -1e308])
def test_a_number_out_of_range_names_its_column(value: Any) -> None:
    with pytest.raises(InvalidData, match=r"'age'.* out of range"):
        TASK.encode({**ROW, "age": value}, PREPROCESSING)


def test_columns_that_lack_or_are_unknown_are_named() -> None:
    with pytest.raises(InvalidData, match="lacks the columns age, size; it has unknown ones: Age"):
        TASK.encode({"Age": 1, "flat": 1, "empty": 2}, PREPROCESSING)
    with pytest.raises(InvalidData, match="'size' needs one value, not a list"):
        TASK.encode({**ROW, "size": ["9"]}, PREPROCESSING)


def test_the_stored_form_comes_back() -> None:
    stored = TASK.sidecars(PREPROCESSING)["preprocessing.json"]
    assert TASK.parse_preprocessing(stored) == PREPROCESSING
    assert TASK.imported_preprocessing({"model_type": "mlp"}, stored, None) == PREPROCESSING
    with pytest.raises(Invalid, match="a column may stand here once only"):
        TASK.parse_preprocessing({"features": [{"name": "a"}, {"name": "a"}]})
    with pytest.raises(Invalid, match="/features/0/std"):
        TASK.parse_preprocessing({"features": [{"name": "a", "std": 0}]})
    with pytest.raises(Invalid, match=r"preprocessing\.json"):
        TASK.imported_preprocessing({"model_type": "mlp"}, None, None)


def test_an_onnx_teacher_takes_the_number_columns_in_order() -> None:
    unnamed = TASK.imported_preprocessing({}, None, Input(modality="vector", shape=(2,)))
    bound = TASK.bind(unnamed, COLUMNS, ["age", "empty"])
    assert bound == Preprocessing(features=(Feature(name="age"), Feature(name="empty")))
    assert TASK.encode({"age": 50, "empty": 2.5, "flat": 1}, bound).tolist() == [50.0, 2.5]
    with pytest.raises(ShapeMismatch, match="reads 2 numbers, the data gives 3"):
        TASK.bind(unnamed, COLUMNS, ["age", "flat", "empty"])
    with pytest.raises(ShapeMismatch, match="these columns are none: size"):
        TASK.bind(unnamed, COLUMNS, ["age", "size"])
    with pytest.raises(Invalid, match="3 x 4"):
        TASK.imported_preprocessing({}, None, Input(modality="vector", shape=(3, 4)))


def test_an_onnx_teacher_s_columns_may_be_named_at_import() -> None:
    numbers = Input(modality="vector", shape=(3,))
    said = {"features": [{"name": "age"}, {"name": "size", "kind": "category", "values": ["9", "10"]}]}
    named = TASK.imported_preprocessing({}, said, numbers)
    assert TASK.bind(named, COLUMNS, INPUTS) == named
    with pytest.raises(ShapeMismatch, match="the data lacks: age"):
        TASK.bind(named, {"size": COLUMNS["size"]}, ["size"])
    with pytest.raises(Invalid, match="gives 1 numbers, the ONNX file takes 3"):
        TASK.imported_preprocessing({}, {"features": [{"name": "age"}]}, numbers)
