"""Lessons for the engine's loop without a job around it."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from app.catalog.spec import Training
from worker.engine.device import Device, Rows
from worker.engine.distill import Lesson, Trained, distill
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Inputs
from worker.engine.learner import Learner

CPU = Device(torch.device("cpu"), torch.float32)
ONE = Ensemble(None, [1.0])


class Notes:
    """A watch that keeps what it is told, and may act at a step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.readings: list[tuple[str, int, dict[str, float]]] = []
        self.at_step = at_step

    def step(self, step: int, total: int, epoch: int, samples: int) -> None:
        self.at_step(step)

    def reading(self, split: Literal["train", "validation"], step: int, values: dict[str, float]) -> None:
        self.readings.append((split, step, values))

    def best(self, step: int, metric: str, value: float) -> None:
        pass


def inputs(features: NDArray[np.float32], labels: NDArray[Any]) -> Inputs:
    return Inputs(Rows(features, CPU), Rows(labels, CPU), lambda batch: batch)


def learner(module: nn.Module, lesson: Lesson, training: Training, device: Device = CPU) -> Learner:
    probe, rows = lesson.inputs(torch.arange(8), 0), lesson.stages[0].epoch_rows
    return Learner(
        module, lesson.terms, training, device=device, teaching=lesson.teaching, probe=probe, rows=rows
    )


def through(lesson: Lesson, training: Training) -> Lesson:
    """Its one stage with as many epochs as the training says."""
    (stage,) = lesson.stages
    return replace(lesson, stages=[replace(stage, epochs=training.epochs)])


def teach(
    module: nn.Module,
    lesson: Lesson,
    training: Training,
    notes: Notes | None = None,
    *,
    device: Device = CPU,
    finish: threading.Event | None = None,
) -> Trained:
    made = through(lesson, training)
    one = learner(module, made, training, device)
    (trained,) = distill([one], made, training, watch=notes or Notes(), finish=finish or threading.Event())
    return trained
