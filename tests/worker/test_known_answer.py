"""Where the answer is known: a fixed random network labels the rows, some labels are wrong, the student is
narrower."""

from statistics import fmean

import numpy as np
import torch
from torch import nn

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.kd import KD
from app.catalog.spec import Training
from tests.worker.classroom import CPU, ONE, inputs, teach
from worker.engine.course import control_lesson
from worker.engine.device import Rows, seed_everything
from worker.engine.distill import Lesson, Stage
from worker.engine.judging.classes import truth_metrics
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Teaching

SHAPE, CLASSES = Input(modality="vector", shape=(16,)), ["a", "b", "c", "d"]
TRAINING_ROWS, NOISE = 800, 0.4


def accuracies(seed: int) -> tuple[float, float]:
    """Of the student and of its control, over 1,000 rows whose true labels are known."""
    seed_everything(99)
    teacher = MLP(hidden_sizes=(32,), activation="tanh").build(SHAPE, CLASSES)
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(TRAINING_ROWS + 1000, 16)).astype(np.float32)
    answers = WhiteBox(teacher)(torch.from_numpy(x)).logits
    assert answers is not None
    logits = 8 * answers.numpy()
    truth = logits.argmax(-1)
    labels = np.where(chance.random(len(x)) < NOISE, chance.integers(0, 4, len(x)), truth)

    def validate(module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found = module.eval()(torch.from_numpy(x[TRAINING_ROWS:])).logits.numpy()
        return truth_metrics(found, truth[TRAINING_ROWS:])

    lesson = Lesson(
        terms=[KD(temperature=2.0, weight=0.9), CrossEntropy(weight=0.1)],
        stages=[Stage(1, [0, 1], np.arange(TRAINING_ROWS), TRAINING_ROWS)],
        inputs=inputs(x, labels),
        teaching=Teaching(ONE, Rows(logits[:, None], CPU)),
        validate=validate,
        metric="accuracy",
    )
    training = Training.model_validate(
        {"epochs": 10, "batch_size": 32, "seed": seed, "optimizer": {"kind": "adamw", "lr": 0.01}}
    )
    alone = control_lesson(lesson, CrossEntropy(), np.arange(TRAINING_ROWS))
    reached = []
    for one in (lesson, alone):
        seed_everything(seed)
        student = MLP(hidden_sizes=(8,)).build(SHAPE, CLASSES)
        reached.append(teach(student, one, training).best["accuracy"])
    return reached[0], reached[1]


def test_the_distilled_student_beats_its_control() -> None:
    found = [accuracies(seed) for seed in range(5)]
    assert all(student > control for student, control in found)
    assert fmean(student - control for student, control in found) > 0.03
