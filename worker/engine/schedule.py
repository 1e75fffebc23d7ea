"""What happens when: the optimizer, its learning rate at each step, and the rows of each batch."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from app.catalog.spec import steps_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.catalog.spec import SGD, AdamW, LearningRateSchedule


def make_optimizer(form: "AdamW | SGD", parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that was ordered, fused: one pass over the weights instead of one an operation."""
    if form.kind == "adamw":
        betas = (form.beta1, form.beta2)
        return torch.optim.AdamW(
            parameters, lr=form.lr, betas=betas, weight_decay=form.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=form.lr,
        momentum=form.momentum,
        weight_decay=form.weight_decay,
        nesterov=form.nesterov,
        fused=True,
    )


def learning_rate(schedule: "LearningRateSchedule", peak: float, step: int, total: int) -> float:
    """The rate of step `step`, counted from 0: up in a straight line, then down to 0 at `total`, or level."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(total - schedule.warmup_steps, 1)
    if schedule.kind == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak * (1 - done) if schedule.kind == "linear" else peak


def batches(
    rows: "NDArray[np.int64]", epoch_rows: int, batch_size: int, chance: tuple[int, int]
) -> Iterator[Tensor]:
    """An epoch's batches of positions, a pure function of chance = (seed, epoch); too few rows come around
    again."""
    generator = np.random.default_rng(chance)
    rounds = [generator.permutation(rows) for _ in range(math.ceil(epoch_rows / len(rows)))]
    order = torch.from_numpy(np.concatenate(rounds)[:epoch_rows])
    for step in range(steps_of(epoch_rows, batch_size)):
        yield order[step * batch_size : (step + 1) * batch_size]
