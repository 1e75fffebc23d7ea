"""A number told from a row of a table: its unit, its losses, its answers."""

import numpy as np
import pytest
import torch

from app.catalog.base import Batch, Column, Input, Outputs
from app.catalog.losses.logit_mse import LogitMSE
from app.catalog.losses.task import TaskLoss, value
from app.catalog.spec import LOSSES, Hinton
from app.catalog.tabular import Feature
from app.catalog.tasks.tabular_regression import RegressionPreprocessing, TabularRegression, Target
from app.errors import Invalid

TASK = TabularRegression()
COLUMNS = {
    "age": Column(type="number", mean=40.0, std=10.0),
    "town": Column(type="category", counts={"a": 1, "b": 1}),
    "price": Column(type="category", mean=150.0, std=70.0),  # the label, which is kept as text
}
BARE = TASK.preprocessing(COLUMNS, ["age", "town"], None)
PREPROCESSING = TASK.with_target(BARE, COLUMNS["price"])


def test_the_student_answers_in_the_target_s_standard_deviations() -> None:
    assert PREPROCESSING.target == Target(mean=150.0, std=70.0)
    assert TASK.in_units(np.array([[1.0], [-2.0]]), PREPROCESSING).tolist() == [[220.0], [10.0]]
    assert TASK.standardized(np.array([220.0, 10.0]), PREPROCESSING).tolist() == [1.0, -2.0]
    told = TASK.in_units(torch.tensor([[0.5]]), PREPROCESSING)
    assert told.tolist() == [[185.0]]
    assert TASK.decode(told.numpy(), ["price"], top_k=3) == [{"value": 185.0}]
    assert TASK.input(PREPROCESSING) == Input(modality="vector", shape=(3,))


@pytest.mark.parametrize("column", [Column(type="number"), Column(type="number", mean=3.0, std=0.0)])
def test_a_target_without_deviation_has_that_of_one(column: Column) -> None:
    target = TASK.with_target(BARE, column).target
    assert target.std == 1.0
    assert target.mean == (column.mean or 0.0)


def test_the_unit_is_stored_beside_the_weights_and_comes_back() -> None:
    stored = TASK.sidecars(PREPROCESSING)["preprocessing.json"]
    assert TASK.parse_preprocessing(stored) == PREPROCESSING
    assert TASK.imported_preprocessing({"model_type": "mlp"}, stored, None) == PREPROCESSING
    with pytest.raises(Invalid, match="/target/std"):
        TASK.parse_preprocessing({**stored, "target": {"mean": 0.0, "std": 0.0}})


def test_a_black_box_answers_in_the_data_s_unit_unless_it_is_said() -> None:
    numbers = Input(modality="vector", shape=(1,))
    plain = TASK.imported_preprocessing({}, None, numbers)
    assert isinstance(plain, RegressionPreprocessing)
    assert plain.target == Target()
    said = {"features": [{"name": "age"}], "target": {"mean": 0.0, "std": 1000.0}}
    thousands = TASK.imported_preprocessing({}, said, numbers)
    wanted = TASK.standardized(TASK.in_units(np.array([[0.22]]), thousands), PREPROCESSING)
    assert wanted[0].tolist() == pytest.approx([1.0])
    bound = TASK.bind(
        TASK.imported_preprocessing({}, {"features": [{"name": ""}]}, numbers), COLUMNS, ["age"]
    )
    assert bound == RegressionPreprocessing(features=(Feature(name="age"),))


def test_hinton_s_pair_of_a_number_is_its_two_squared_errors() -> None:
    imitation, own = Hinton(alpha=0.75).expand(TASK)
    assert imitation == LogitMSE(weight=0.75, center=False)
    assert own == TaskLoss(weight=0.25)
    assert TASK.own_loss in LOSSES


def test_the_task_s_own_loss_by_hand() -> None:
    student, labels = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([0.0, torch.nan, 1.0])
    assert value([student], [], labels=labels).item() == pytest.approx((1 + 4) / 2)
    assert value([student], [], labels=torch.full((3,), torch.nan)).item() == 0.0


def test_no_gradient_comes_of_a_row_without_a_label() -> None:
    student = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = TaskLoss()(Outputs(student), Outputs(), Batch(labels=torch.tensor([torch.nan, 1.0])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.tolist() == [[0.0], [2.0]]


def test_the_logits_of_one_number_are_not_centered_away() -> None:
    student, teacher = Outputs(torch.tensor([[1.0], [3.0]])), Outputs(torch.tensor([[0.0], [0.0]]))
    assert LogitMSE()(student, teacher, Batch()).item() == pytest.approx(5.0)
