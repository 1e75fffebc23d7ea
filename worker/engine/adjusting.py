"""What a job changes of its own order when it cannot go on: half the learning rate, or half the rows at once.

Each change is told, stands in the job's row and holds until the job's end, through every later attempt.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from app.catalog.spec import JobSpec, Training
from app.errors import NumericDivergence, OutOfMemory
from app.services.jobs import Json
from worker.engine.device import out_of_memory
from worker.journal import Journal

MOST_HALVINGS = 2  # of the learning rate

T = TypeVar("T")


class Adjustments:
    """made: by earlier attempts."""

    def __init__(self, journal: Journal, spec: JobSpec, made: Json) -> None:
        self._journal, self._spec, self._made = journal, spec, dict(made)

    @property
    def halvings(self) -> int:
        """How often the learning rate was halved."""
        return int(self._made.get("lr_halvings", 0))

    @property
    def rate(self) -> float:
        """What the ordered learning rate is multiplied by."""
        return float(0.5**self.halvings)

    def training(self, seed: int) -> Training:
        """As it was ordered, with the rows at once that fit."""
        micro = self._made.get("micro_batch_size", self._spec.training.micro_batch_size)
        return self._spec.training.model_copy(update={"seed": seed, "micro_batch_size": micro})

    @property
    def told(self) -> list[str]:
        """For the report."""
        notes = []
        if self.halvings:
            notes.append(
                f"A loss became no finite number, so the learning rate was halved {_times(self.halvings)}: "
                "all that was trained from then on, the control included, has the lower one."
            )
        if micro := self._made.get("micro_batch_size"):
            size = self._spec.training.batch_size
            notes.append(
                f"Memory ran out, so batches of {size} were added up from parts of {micro} rows."
                + self._parts_differ()
            )
        return notes

    def persist(self, attempt: Callable[[], T]) -> T:
        """What comes of it, in the end; it begins again after each change and must find its own beginning.

        Raises NumericDivergence and OutOfMemory when there is nothing left to change.
        """
        while True:
            try:
                return attempt()
            except NumericDivergence as error:
                change = partial(self._calm, error)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                change = partial(self._shrink)
            change()  # the error is gone, and with it the frames that held on to memory

    def _calm(self, error: NumericDivergence) -> None:
        halvings = self.halvings + 1
        if halvings > MOST_HALVINGS:
            raise error
        what = error.detail.split(". ")[0]
        self._adjust(
            {"lr_halvings": halvings},
            f"{what}. It goes on from before that with half the learning rate, which is now "
            f"{0.5**halvings:g} of the ordered one.",
        )

    def _shrink(self) -> None:
        size = self._spec.training.batch_size
        now = min(self.training(0).micro_batch_size or size, size)
        if now == 1:
            raise OutOfMemory(
                "The device ran out of memory even with one row at a time: order a smaller student, smaller "
                "inputs or losses that look at fewer layers."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = -(-now // 2)
        self._adjust(
            {"micro_batch_size": half},
            f"Memory ran out with {now} rows at once. It goes on with {half}, whose gradients are added up "
            f"to those of a batch of {size}.{self._parts_differ()}",
        )

    def _adjust(self, change: Json, message: str) -> None:
        self._made |= change
        self._journal.adjust(self._made, message)

    def _parts_differ(self) -> str:
        kinds = sorted({form.kind for form in self._spec.terms() if form.batch_statistic})
        if not kinds:
            return ""
        verb = "compares" if len(kinds) == 1 else "compare"
        return (
            f" But {', '.join(kinds)} {verb} the rows of a batch with each other: over parts the value is "
            "another than over the whole."
        )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
