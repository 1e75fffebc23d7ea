"""How several teachers become one, against numbers by hand."""

import math

import pytest
import torch

from worker.engine.ensemble import combination

CPU = torch.device("cpu")
# two teachers, one row, two classes: the first says 3/4 and 1/4, the second 1/2 and 1/2
ANSWERS = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])


def test_mean_probabilities_at_temperature_1_is_the_weighted_mean_of_the_probabilities() -> None:
    mean = combination("mean_probabilities", [3.0, 1.0], CPU)(ANSWERS, 1.0)
    assert mean.softmax(-1)[0].tolist() == pytest.approx([0.6875, 0.3125])  # (3 * 0.75 + 0.5) / 4


def test_mean_probabilities_softens_each_teacher_before_the_mean() -> None:
    mean = combination("mean_probabilities", [1.0, 1.0], CPU)(ANSWERS, 2.0)
    first = math.sqrt(3) / (1 + math.sqrt(3))
    assert (mean / 2.0).softmax(-1)[0].tolist() == pytest.approx([(first + 0.5) / 2, (1.5 - first) / 2])


def test_mean_logits_is_another_target() -> None:
    mean = combination("mean_logits", [3.0, 1.0], CPU)(ANSWERS, 1.0)
    assert mean[0].tolist() == pytest.approx([0.75 * math.log(3), 0.0])


def test_one_teacher_is_left_as_it_is() -> None:
    assert torch.equal(combination(None, [2.0], CPU)(ANSWERS[:, :1], 4.0), ANSWERS[:, 0])


def test_saturated_teachers_stay_finite() -> None:
    answers = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    mean = combination("mean_probabilities", [1.0, 1.0], CPU)(answers, 1.0)
    assert mean.softmax(-1)[0].tolist() == pytest.approx([0.5, 0.5])
