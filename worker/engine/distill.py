"""The training loop, from top to bottom. Student and control are taught by the same one."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Loss, Outputs
from app.catalog.spec import steps_of
from worker.engine.device import Device, Rows, state_on_cpu
from worker.engine.objective import Objective
from worker.engine.schedule import batches, learning_rate, make_optimizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.catalog.spec import Training

LOG_STEPS = 50  # steps between two readings of the losses; every epoch's last step is read too
LOWER_IS_BETTER = {"log_loss", "kl"}

Metrics = dict[str, float]
Ended = Literal["epochs", "early_stopping", "user"]


@dataclass(frozen=True)
class Lesson:
    """What a student is taught with. rows: positions of its training rows in inputs, labels and answers."""

    terms: Sequence[Loss]
    rows: "NDArray[np.int64]"
    epoch_rows: int  # rows of an epoch; fewer `rows` than that are gone through again
    inputs: Rows
    labels: Rows
    answers: Rows | None  # the teachers' raw logits (N, K, C); None for the control, which has no teacher
    combine: Callable[
        [Tensor, float], Tensor
    ]  # (answers (B, K, C), temperature) -> one teacher's logits (B, C)
    normalize: Callable[[Tensor], Tensor]
    validate: Callable[[nn.Module], Metrics]
    metric: str  # of validate; decides which step is the best one


@dataclass(frozen=True)
class Trained:
    """`state` are the weights of the best step, on the CPU; the module itself keeps the last ones.

    pulls: the norm of each weighted term's gradient at the logits of the first batch; none of a lone term.
    """

    state: dict[str, Tensor]
    best: Metrics
    best_step: int
    steps: int
    total_steps: int
    seconds: float
    samples: int
    stopped_by: Ended
    pulls: Metrics


class Watch(Protocol):
    """Who looks on."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None:
        """After every optimizer step; must cost nothing."""

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None:
        """The means of the losses since the last reading, or the validation metrics."""

    def best(self, step: int, metric: str, value: float) -> None:
        """A new best step."""


def distill(
    student: nn.Module,
    lesson: Lesson,
    training: "Training",
    *,
    device: Device,
    watch: Watch,
    finish: threading.Event,
) -> Trained:
    """Trains `student` until its epochs are over, its validation metric stands still, or `finish` is set.

    Raises NumericDivergence, naming the terms, before a loss that is no finite number moves the optimizer.
    """
    objective = Objective(lesson.terms, Context(rows=len(lesson.rows), seed=training.seed), device)
    learned = [*student.parameters(), *objective.parameters()]
    optimizer = make_optimizer(training.optimizer, learned)
    epoch_steps = steps_of(lesson.epoch_rows, training.batch_size)
    total = training.epochs * epoch_steps
    pulls: Metrics = {}
    best, started, step, samples = _Best(lesson.metric), time.monotonic(), 0, 0
    patience = training.early_stopping.patience if training.early_stopping else training.epochs

    for epoch in range(training.epochs):
        student.train()
        terms, temperatures, weights = objective.at(epoch)
        sums, read_at = torch.zeros_like(weights), step
        for index in batches(lesson.rows, lesson.epoch_rows, training.batch_size, (training.seed, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training.schedule, training.optimizer.lr, step, total)
            batch = Batch(labels=lesson.labels[index], indices=index)
            answers = None if lesson.answers is None else lesson.answers[index]
            teacher = {
                t: Outputs(None if answers is None else lesson.combine(answers, t)) for t in {*temperatures}
            }
            with device.autocast():
                logits = student(lesson.normalize(lesson.inputs[index])).logits
            outputs = Outputs(logits)
            values = torch.stack(
                [term(outputs, teacher[t], batch) for term, t in zip(terms, temperatures, strict=True)]
            )
            loss = values @ weights
            if not loss.isfinite():
                raise objective.diverged(values, step)
            if step == 0 and len(terms) > 1:
                pulls = objective.pulls(values, weights, logits)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(learned, training.clip_norm)
            optimizer.step()

            sums += values.detach()
            step, samples = step + 1, samples + len(index)
            watch.step(step, total, epoch, samples)
            enough = finish.is_set()
            if enough or step - read_at == LOG_STEPS or step % epoch_steps == 0:
                watch.reading("train", step, objective.reading(sums / (step - read_at), weights))
                sums, read_at = torch.zeros_like(weights), step
            if enough:
                break
        measured = lesson.validate(student)
        watch.reading("validation", step, measured)
        if best.replaced_by(student, step, measured):
            watch.best(step, lesson.metric, measured[lesson.metric])
        if enough or best.stale >= patience:
            break

    ended: Ended = "epochs" if step == total else "user" if enough else "early_stopping"
    return Trained(
        best.state, best.metrics, best.step, step, total, time.monotonic() - started, samples, ended, pulls
    )


@dataclass
class _Best:
    """The best weights so far. Equal metrics are told apart by log loss or KL, which does not end a
    standstill."""

    metric: str
    stale: int = 0  # epochs since the metric last improved
    step: int = 0
    metrics: Metrics = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def replaced_by(self, student: nn.Module, step: int, metrics: Metrics) -> bool:
        """Looks at an epoch's end."""
        improved = not self.metrics or self._gain(metrics, self.metric) > 0
        self.stale = 0 if improved else self.stale + 1
        doubt = "log_loss" if "log_loss" in metrics else "kl"
        tie = not improved and self._gain(metrics, self.metric) == 0 and self._gain(metrics, doubt) > 0
        if improved or tie:
            self.step, self.metrics, self.state = step, metrics, state_on_cpu(student)
        return improved or tie

    def _gain(self, metrics: Metrics, name: str) -> float:
        return (self.metrics[name] - metrics[name]) * (1 if name in LOWER_IS_BETTER else -1)
