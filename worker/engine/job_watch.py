"""Passes on to a job's row how its trainings go."""

import time
from typing import Literal

from worker.engine.learner import Metrics
from worker.journal import Journal


class JobWatch:
    """Passes on how a run goes; `first` and `share` are its part of the whole phase.

    resumed: the steps and samples of earlier attempts.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        prefix: str,
        first: float,
        share: float,
        resumed: tuple[int, int] = (0, 0),
    ) -> None:
        self._journal, self._prefix, self._first, self._share = journal, prefix, first, share
        self._started, self._before = time.monotonic(), resumed
        self.log_losses: list[float] = []

    def step(self, step: int, total: int, epoch: int, samples: int) -> None:
        if not self._journal.due():
            return
        seconds = max(time.monotonic() - self._started, 1e-9)
        steps_before, samples_before = self._before
        self._journal.progress(
            self._first + self._share * step / total,
            step=step,
            total_steps=total,
            epoch=epoch,
            samples_per_s=round((samples - samples_before) / seconds, 1),
            eta_s=round(seconds / (step - steps_before) * (total - step), 1),
        )

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None:
        if split == "validation" and "log_loss" in values:
            self.log_losses.append(values["log_loss"])
        self._journal.points(self._prefix + split, step, values)

    def best(self, step: int, metric: str, value: float) -> None:
        if not self._prefix:
            self._journal.best(metric, value, step)
