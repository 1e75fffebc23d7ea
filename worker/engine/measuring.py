"""What a student answers to a split, and how good that is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from app.errors import NumericDivergence
from worker.data import Split
from worker.engine.device import Rows
from worker.engine.judging.metrics import judge_of
from worker.engine.learner import Metrics
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PREDICTED_ROWS = 256  # at once


def validator(
    inputs: Rows, split: Split, heard: "Array | None", order: Order
) -> Callable[[nn.Module], Metrics]:
    """Measures a student, or raises NumericDivergence. heard: the teachers' logits, row for row."""
    labels = split.labels[split.rows] if len(split.labeled) else None
    judge = judge_of(order.task, order.preprocessing)

    def validate(student: nn.Module) -> Metrics:
        logits = predict(student, inputs, split.rows, order.normalize)
        if not np.isfinite(logits).all():
            raise NumericDivergence(
                "The student's logits on the validation rows became infinite or not a number. "
                "Lower training.optimizer.lr, add training.schedule.warmup_steps, or set training.clip_norm."
            )
        truth = {} if labels is None else judge.truth(logits, labels)
        return truth | ({} if heard is None else judge.likeness(logits, heard))

    return validate


@torch.no_grad()
def predict(
    student: nn.Module, inputs: Rows, rows: "NDArray[np.int64]", normalize: Callable[[Any], Any]
) -> "NDArray[np.float32]":
    """The student's logits (len(rows), C) in eval mode and float32, in which it is left."""
    student.eval()
    parts = torch.split(torch.from_numpy(rows), PREDICTED_ROWS)
    return torch.cat([student(normalize(inputs[part])).logits.float().cpu() for part in parts]).numpy()
