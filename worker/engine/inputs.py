"""What the models are given: a batch of rows as student and teachers see it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from app.catalog.base import Batch

if TYPE_CHECKING:
    from worker.engine.device import Rows

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
        """Of so many rows each; None: itself."""
        if size is None or size >= len(self):
            yield self
        else:
            yield from (self.part(slice(start, start + size)) for start in range(0, len(self), size))

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
        rows: "Rows",
        labels: "Rows",
        normalize: Normalize,
        *,
        token_mask: TokenMask = lambda normalized: None,  # noqa: ARG005
        live: "Mapping[int, tuple[Rows, Normalize]] | None" = None,
    ) -> None:
        self._rows, self._labels, self._normalize = rows, labels, normalize
        self._token_mask, self._live = token_mask, live or {}

    def __call__(self, index: Tensor, epoch: int) -> Seen:
        """index: (B,), positions of rows."""
        student = self._normalize(self._rows[index])
        batch = Batch(labels=self._labels[index], indices=index, mask=self._token_mask(student))
        teachers = {place: normalize(rows[index]) for place, (rows, normalize) in self._live.items()}
        return Seen(batch, student, index, teachers)
