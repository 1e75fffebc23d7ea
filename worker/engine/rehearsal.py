"""A job's own course in small: one batch, one epoch a stage; nobody looks on and nothing is kept."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from app.catalog.features import LayerLoss
from app.catalog.spec import Training
from app.errors import Fault, Invalid, ShapeMismatch
from worker.data import Split
from worker.engine.checkpoint import Run
from worker.engine.course import Course
from worker.engine.device import Rows, out_of_memory
from worker.engine.distill import Lesson, Trained, distill
from worker.engine.fetch import Material
from worker.engine.layer_paths import at
from worker.engine.learner import Learner, Metrics
from worker.engine.lumped import LumpedRows
from worker.engine.questions import form_of
from worker.engine.teachers import Live
from worker.engine.teaching import Teaching
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Rehearsal(Course):
    """encoded: the first training rows as the student reads them. heard: the teachers' logits for them,
    (n, K, C), in the job's order; None: there is no teacher. live: those that training asks."""

    def __init__(
        self,
        order: Order,
        material: Material,
        encoded: "Array",
        heard: "Array | None",
        live: Mapping[int, Live],
    ) -> None:
        answers = {} if heard is None else {"validation": heard}
        super().__init__(order, _small(material, len(encoded)), answers, threading.Event(), runs=1)
        self._encoded, self._said, self._live = encoded, heard, dict(live)
        self.before: list[Trained] = []

    @cached_property
    def live(self) -> dict[int, Live]:
        return self._live

    @cached_property
    def teachers(self) -> Teaching | None:
        if self._said is None:
            return None
        return Teaching(self.order.ensemble, _kept(self.order, self._said), self.live)

    @cached_property
    def heard(self) -> "dict[str, Array]":
        """Without teachers any answer will do to measure against."""
        if self._said is not None:
            return super().heard
        split = self.material.validation
        return {split.name: np.zeros((len(split.rows), len(self.order.resolved.labels)), np.float32)}

    def lesson(self) -> Lesson:
        """Where none of the rows has a label, all of them stand in for those that have."""
        lesson, every = super().lesson(), self.material.training.rows
        small = [
            replace(stage, epochs=1, rows=stage.rows if len(stage.rows) else every, epoch_rows=len(every))
            for stage in lesson.stages
        ]
        return replace(lesson, stages=small)

    def training(self, seed: int) -> Training:
        return super().training(seed).model_copy(update={"early_stopping": None})

    def run(self, learners: list[Learner], lesson: Lesson, name: str, seed: int) -> Run:
        """Raises ShapeMismatch where a loss cannot compare what it is shown."""
        training, rate = self.training(seed), self.order.adjustments.rate
        try:
            trained = distill(learners, lesson, training, watch=_Nobody(), finish=self.finish, rate=rate)
        except (Invalid, RuntimeError, ValueError, LookupError) as error:
            if out_of_memory(error):
                raise
            computing = [one.objective.computing for one in learners]
            place = next((place for place in computing if place is not None), None)
            raise _misfit(error, place, lesson) from error
        return Run(trained, [], learners[-1].told_pairs())

    def found(self, place: int) -> None:
        """Nothing was there before."""
        return

    def keep(self, place: int, students: dict[str, Trained]) -> None:
        self.before += students.values()

    def _rows(self, split: Split, preprocessing: Any) -> Rows:
        """The first training rows, whatever they are for."""
        if preprocessing == self.order.preprocessing:
            return Rows(self._encoded, self.order.device)
        pin, task = self.order.resolved.data.train, self.order.task
        sample = self.material.tables.sample(pin, task, preprocessing, len(self._encoded))
        return Rows(sample, self.order.device)


def _small(material: Material, count: int) -> Material:
    """The first training rows to learn from and to be measured on."""
    labels = material.training.labels[:count]
    training = Split("training", (), np.arange(count), labels)
    validation = Split("validation", (), training.labeled if len(training.labeled) else training.rows, labels)
    return replace(material, training=training, validation=validation, report=validation)


def _kept(order: Order, heard: "Array") -> Rows | LumpedRows | None:
    """The answers as training will have them, the same to every view."""
    data, store = order.resolved.spec.data, order.resolved.spec.signals
    if data.augment and not data.views:
        return None
    seen = np.repeat(heard, data.views or 1, axis=0)
    if not isinstance(store.top_k, int):
        return Rows(seen, order.device)
    form = form_of(order)
    return LumpedRows(Rows(form.packed(torch.from_numpy(seen[:, 0])), order.device), form)


def _misfit(error: Exception, place: int | None, lesson: Lesson) -> Exception:
    """The error itself, or what it means where a loss was being computed: its place tells which."""
    pointer = f"/losses/{place}"
    if isinstance(error, Invalid):
        return error if place is None else at(pointer, error)
    if place is None or not isinstance(lesson.terms[place], LayerLoss):
        return error
    kind, said = lesson.terms[place].kind, [*str(error).splitlines(), type(error).__name__]
    detail = f"{kind} cannot compare what the student and its teacher show: {said[0][:200]}"
    fix = "choose layers whose shapes go together, or another loss"
    return ShapeMismatch(detail, Fault(pointer, "shape_mismatch", detail, fix))


class _Nobody:
    """Looks on and says nothing."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None: ...

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None: ...

    def best(self, step: int, metric: str, value: float) -> None: ...
