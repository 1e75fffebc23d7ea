"""What the models are given: a batch of rows as student and teachers see it."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from app.catalog.base import Batch, Frozen
from worker.engine.augment import Augment
from worker.engine.device import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.data import Tables
    from worker.engine.validate import Order

Normalize = Callable[[Tensor], Tensor]
TokenMask = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Seen:
    """One batch. student: (B, ...), normalized. positions: (B,), of its rows in the teachers' stored answers.

    teachers: the same rows, normalized for each teacher that is asked now, by its place in the order.
    """

    batch: Batch
    student: Tensor
    positions: Tensor
    teachers: Mapping[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.student)

    def parts(self, size: int | None) -> "Iterator[Seen]":
        """Of at most so many rows each, and all of like sizes: batch norm cannot take the one row that may be
        left over. None: itself."""
        count = 1 if size is None else -(-len(self) // size)
        if count == 1:
            yield self
            return
        edges = [place * len(self) // count for place in range(count + 1)]
        yield from (self.part(slice(start, end)) for start, end in pairwise(edges))

    def part(self, rows: slice) -> "Seen":
        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        batch = Batch(**{name: of(tensor) for name, tensor in vars(self.batch).items()})
        teachers = {place: tensor[rows] for place, tensor in self.teachers.items()}
        return replace(
            self, batch=batch, student=self.student[rows], positions=self.positions[rows], teachers=teachers
        )


class Inputs:
    """The training rows. live: encoded rows and their normalization of each teacher that is asked now."""

    def __init__(
        self,
        rows: Rows,
        labels: Rows,
        normalize: Normalize,
        *,
        token_mask: TokenMask = lambda normalized: None,  # noqa: ARG005
        live: Mapping[int, tuple[Rows, Normalize]] | None = None,
    ) -> None:
        self._rows, self._labels, self._normalize = rows, labels, normalize
        self._token_mask, self._live = token_mask, live or {}

    def alone(self) -> "Inputs":
        """The same rows for a student that nobody teaches."""
        same = copy(self)
        same._live = {}
        return same

    def __call__(self, index: Tensor, epoch: int) -> Seen:
        """index: (B,), positions of rows."""
        student = self._normalize(self._rows[index])
        batch = Batch(labels=self._labels[index], indices=index, mask=self._token_mask(student))
        teachers = {place: normalize(rows[index]) for place, (rows, normalize) in self._live.items()}
        return Seen(batch, student, index, teachers)


class Augmented(Inputs):
    """Training rows that are drawn anew in each epoch, or in turns of `views` epochs.

    normalize: from what was drawn to the student's batch. shown: to that of each teacher that is asked now.
    """

    def __init__(
        self,
        augment: Augment,
        labels: Rows,
        normalize: Normalize,
        *,
        token_mask: TokenMask = lambda normalized: None,  # noqa: ARG005
        shown: Mapping[int, Normalize] | None = None,
        views: int | None = None,
    ) -> None:
        self._augment, self._labels, self._normalize = augment, labels, normalize
        self._token_mask, self._shown, self._views = token_mask, shown or {}, views

    def alone(self) -> "Augmented":
        same = copy(self)
        same._shown = {}
        return same

    def __call__(self, index: Tensor, epoch: int) -> Seen:
        moment = epoch if self._views is None else epoch % self._views
        drawn = self._augment(index, moment)
        student = self._normalize(drawn.rows)
        batch = Batch(
            labels=self._labels[index],
            indices=index,
            mask=self._token_mask(student),
            others=None if drawn.partners is None else self._labels[drawn.partners],
            share=drawn.share,
        )
        teachers = {place: normalize(drawn.rows) for place, normalize in self._shown.items()}
        positions = index if self._views is None else index * self._views + moment
        return Seen(batch, student, positions, teachers)


def training_inputs(
    order: "Order",
    tables: "Tables",
    encoded: Callable[[Frozen], Rows],
    labels: Rows,
    *,
    learned: "NDArray[np.int64]",
    live: Mapping[int, Frozen],
) -> Inputs:
    """As the job's order wants its rows. encoded: all of them in the way of a preprocessing. learned:
    positions of those that are learned from. live: the preprocessing of each teacher that is asked while
    students learn."""
    task, token_mask = order.task, order.token_mask
    if not order.resolved.spec.data.augment:
        plain = {k: (encoded(form), partial(task.normalize, preprocessing=form)) for k, form in live.items()}
        rows = encoded(order.preprocessing)
        return Inputs(rows, labels, order.normalize, token_mask=token_mask, live=plain)
    augment = augmenting(order, tables, encoded(order.source), learned)
    shown = {k: partial(order.shown, preprocessing=form) for k, form in live.items()}
    student = partial(order.shown, preprocessing=order.preprocessing)
    views = order.resolved.spec.data.views
    return Augmented(augment, labels, student, token_mask=token_mask, shown=shown, views=views)


def augmenting(order: "Order", tables: "Tables", rows: Rows, learned: "NDArray[np.int64]") -> Augment:
    """rows: of the order's source."""
    return Augment(
        order.resolved.spec.data.augment,
        rows,
        partners=torch.from_numpy(learned),
        seed=order.seed,
        vocabulary=tables.vocabulary(order.task, order.source),
    )
