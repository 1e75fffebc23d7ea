"""How several teachers become one, against numbers by hand."""

import math

import pytest
import torch

from worker.engine.ensemble import Ensemble

# two teachers, one row, two classes: the first says 3/4 and 1/4, the second 1/2 and 1/2
ANSWERS = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])


def test_mean_probabilities_at_temperature_1_is_the_weighted_mean_of_the_probabilities() -> None:
    mean = Ensemble("mean_probabilities", [3.0, 1.0]).mean(ANSWERS, 1.0)
    assert mean.softmax(-1)[0].tolist() == pytest.approx([0.6875, 0.3125])  # (3 * 0.75 + 0.5) / 4


def test_mean_probabilities_softens_each_teacher_before_the_mean() -> None:
    mean = Ensemble("mean_probabilities", [1.0, 1.0]).mean(ANSWERS, 2.0)
    first = math.sqrt(3) / (1 + math.sqrt(3))
    assert (mean / 2.0).softmax(-1)[0].tolist() == pytest.approx([(first + 0.5) / 2, (1.5 - first) / 2])


def test_mean_logits_is_another_target() -> None:
    mean = Ensemble("mean_logits", [3.0, 1.0]).mean(ANSWERS, 1.0)
    assert mean[0].tolist() == pytest.approx([0.75 * math.log(3), 0.0])


def test_one_teacher_is_left_as_it_is() -> None:
    assert torch.equal(Ensemble(None, [2.0]).mean(ANSWERS[:, :1], 4.0), ANSWERS[:, 0])


def test_saturated_teachers_stay_finite() -> None:
    answers = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    mean = Ensemble("mean_probabilities", [1.0, 1.0]).mean(answers, 1.0)
    assert mean.softmax(-1)[0].tolist() == pytest.approx([0.5, 0.5])


def test_each_teacher_alone_has_its_share() -> None:
    (first, one), (second, other) = Ensemble("each", [3.0, 1.0]).targets(ANSWERS, 4.0, step=0)
    assert (first, second) == (0.75, 0.25)
    assert torch.equal(one, ANSWERS[:, 0])
    assert torch.equal(other, ANSWERS[:, 1])


def test_a_random_teacher_is_drawn_by_its_share_and_the_same_for_the_same_step() -> None:
    ensemble = Ensemble("random", [3.0, 1.0], seed=5)
    drawn = [ensemble.targets(ANSWERS, 1.0, step)[0][1] for step in range(400)]
    firsts = sum(torch.equal(one, ANSWERS[:, 0]) for one in drawn)
    assert 260 < firsts < 340
    again = [Ensemble("random", [3.0, 1.0], seed=5).targets(ANSWERS, 1.0, step)[0][1] for step in range(400)]
    assert all(map(torch.equal, drawn, again))
