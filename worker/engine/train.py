"""The fifth phase: the student is taught, and then the control, which lacks nothing but the teacher."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from app.catalog.spec import LOSSES
from app.errors import NumericDivergence
from worker.data import Split
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Metrics, Trained, distill
from worker.engine.ensemble import combination
from worker.engine.fetch import Material
from worker.engine.metrics import imitation_metrics, truth_metrics
from worker.engine.validate import Order
from worker.journal import Journal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DOMINATES = 0.99  # share of one weighted term in the gradients, from which on the others hardly count
OVERFITS = 1.2  # times the lowest validation log loss, at the end
PREDICTED_ROWS = 256  # at once


@dataclass(frozen=True)
class Taught:
    """control: None, and `why` says why there is none."""

    student: Trained
    control: Trained | None
    why: str


def train(order: Order, material: Material, answers: "dict[str, Array]", finish: threading.Event) -> Taught:
    """Raises NumericDivergence."""
    training, why = order.resolved.spec.training, _no_control(order, material)
    lesson = student_lesson(order, material, answers)
    watch = _JobWatch(order.journal, prefix="", first=0.0, share=1.0 if why else 0.5)
    student = distill(order.new_student(), lesson, training, device=order.device, watch=watch, finish=finish)
    _diagnose(order, student.pulls, watch.log_losses)
    if why or finish.is_set():
        return Taught(student, None, why or "the job was ended early, before the control was trained")
    watch = _JobWatch(order.journal, prefix="control_", first=0.5, share=0.5)
    alone = control_lesson(lesson, material.training)
    control = distill(order.new_student(), alone, training, device=order.device, watch=watch, finish=finish)
    if control.stopped_by == "user":
        return Taught(student, None, "the job was ended early, before the control had trained as long")
    return Taught(student, control, "")


def student_lesson(order: Order, material: Material, answers: "dict[str, Array]") -> Lesson:
    spec, device, training = order.resolved.spec, order.device, material.training
    weights = [teacher.weight for teacher in order.resolved.teachers]
    inputs = {
        split.name: Rows(material.tables.laid_end_to_end(split, order.task, order.preprocessing), device)
        for split in (training, material.validation)
    }
    targets = combination(spec.ensemble, weights, torch.device("cpu"))
    positions = material.validation.rows
    heard = targets(torch.from_numpy(answers["validation"][positions]), 1.0).numpy()
    validate = validator(inputs["validation"], material.validation, heard, order.normalize)
    stopping = spec.training.early_stopping
    metric = order.task.metric if stopping is None or stopping.metric == "auto" else stopping.metric
    return Lesson(
        terms=spec.terms(),
        rows=training.rows,
        epoch_rows=len(training.rows),
        inputs=inputs["training"],
        labels=Rows(training.labels, device),
        answers=Rows(answers["training"], device),
        combine=combination(spec.ensemble, weights, device.on),
        normalize=order.normalize,
        validate=validate,
        metric=metric if len(material.validation.labeled) else "agreement",
    )


def control_lesson(lesson: Lesson, training: Split) -> Lesson:
    """The task's own loss on the labeled rows alone, which come around again until the steps are as many."""
    return replace(lesson, terms=[LOSSES["cross_entropy"]()], rows=training.labeled, answers=None)  # type: ignore[call-arg]


def validator(
    inputs: Rows, split: Split, heard: "Array", normalize: Callable[[Any], Any]
) -> Callable[[nn.Module], Metrics]:
    """Measures a student, or raises NumericDivergence. heard: the teachers' logits, row for row."""
    labels = split.labels[split.rows] if len(split.labeled) else None

    def validate(student: nn.Module) -> Metrics:
        logits = predict(student, inputs, split.rows, normalize)
        if not np.isfinite(logits).all():
            raise NumericDivergence(
                "The student's logits on the validation rows became infinite or not a number. "
                "Lower training.optimizer.lr, add training.schedule.warmup_steps, or set training.clip_norm."
            )
        return ({} if labels is None else truth_metrics(logits, labels)) | imitation_metrics(logits, heard)

    return validate


@torch.no_grad()
def predict(
    student: nn.Module, inputs: Rows, rows: "NDArray[np.int64]", normalize: Callable[[Any], Any]
) -> "NDArray[np.float32]":
    """The student's logits (len(rows), C) in eval mode and float32, in which it is left."""
    student.eval()
    parts = torch.split(torch.from_numpy(rows), PREDICTED_ROWS)
    return torch.cat([student(normalize(inputs[part])).logits.float().cpu() for part in parts]).numpy()


def _no_control(order: Order, material: Material) -> str:
    if "control" not in order.resolved.spec.evaluation.compare:
        return "evaluation.compare does not name it"
    return "" if len(material.training.labeled) else "no training row has a label"


def _diagnose(order: Order, pulls: Metrics, losses: list[float]) -> None:
    # A term without any gradient on this one batch, as of labels that none of its rows has, tells nothing.
    felt = {name: norm for name, norm in pulls.items() if norm > 0}
    name = max(felt, key=lambda term: felt[term], default="")
    if len(felt) > 1 and (share := felt[name] / sum(felt.values())) > DOMINATES:
        order.journal.warn(
            "loss_term_dominates",
            f"{name} made {share:.1%} of the gradients at first: the other losses hardly count. "
            "Lower its weight.",
            term=name,
            share=share,
        )
    if losses and losses[-1] > OVERFITS * min(losses):
        order.journal.warn(
            "overfitting",
            f"The validation log loss rose from {min(losses):.4f} to {losses[-1]:.4f}. The best step was "
            "kept; "
            "train for fewer epochs, or add unlabeled rows.",
            lowest=min(losses),
            last=losses[-1],
        )


class _JobWatch:
    """Passes on how a run goes; `first` and `share` are its part of the whole phase."""

    def __init__(self, journal: Journal, *, prefix: str, first: float, share: float) -> None:
        self._journal, self._prefix, self._first, self._share = journal, prefix, first, share
        self._started = time.monotonic()
        self.log_losses: list[float] = []

    def step(self, step: int, total: int, epoch: int, samples: int) -> None:
        if not self._journal.due():
            return
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._journal.progress(
            self._first + self._share * step / total,
            step=step,
            total_steps=total,
            epoch=epoch,
            samples_per_s=round(samples / seconds, 1),
            eta_s=round(seconds / step * (total - step), 1),
        )

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None:
        if split == "validation" and "log_loss" in values:
            self.log_losses.append(values["log_loss"])
        self._journal.points(self._prefix + split, step, values)

    def best(self, step: int, metric: str, value: float) -> None:
        if not self._prefix:
            self._journal.best(metric, value, step)
