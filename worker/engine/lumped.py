"""A teacher's answers where classes are too many to keep: the likeliest of each row, and all others as one
more outcome.

Leaving the others out, or scaling the kept ones up to a sum of 1, teaches another distribution; with the
others' mass as one outcome both sides are still true distributions, over k + 1 outcomes.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.engine.device import Rows

    Array = NDArray[Any]


@dataclass(frozen=True)
class Lumped:
    """classes: (B, k), places of the likeliest, the first one first. logits: (B, k), theirs. rest, mean:
    (B,), the log of the sum of exp and the mean of the others' logits, of which there are `others`."""

    classes: Tensor
    logits: Tensor
    rest: Tensor
    mean: Tensor
    others: int

    @classmethod
    def of(cls, logits: Tensor, k: int) -> "Lumped":
        """logits: (B, C), with k < C."""
        top, classes = logits.topk(k, -1)
        left = logits.scatter(-1, classes, -math.inf)
        mean = logits.scatter(-1, classes, 0).sum(-1) / (logits.shape[-1] - k)
        return cls(classes, top, left.logsumexp(-1), mean, logits.shape[-1] - k)

    def teacher(self, temperature: float) -> Tensor:
        """(B, k + 1): logits that, softened by this temperature, have the softened mass of the others last.

        What the others' sum of exp(z / T) is must be told from what is known at T = 1. Its logarithm, over
        1 / T, is a curve whose value and slope at 0 (their number, their mean) and whose value at 1 are kept:
        a parabola through these is exact at T = 1, and for others that are spread normally.
        """
        share, count = 1 / temperature, math.log(self.others)
        sums = count + self.mean * share + (self.rest - count - self.mean) * share**2
        return torch.cat([self.logits, (sums * temperature).unsqueeze(-1)], -1)

    def dense(self) -> Tensor:
        """(B, C), every other class with their mean: for looking at shapes, not for learning."""
        whole = self.mean[:, None].repeat(1, self.classes.shape[1] + self.others)
        return whole.scatter(-1, self.classes, self.logits)

    def student(self, logits: Tensor, temperature: float) -> Tensor:
        """A student's logits (B, C) over the same k + 1 outcomes, exactly."""
        left = logits.scatter(-1, self.classes, -math.inf)
        tail = (left / temperature).logsumexp(-1, keepdim=True) * temperature
        return torch.cat([logits.gather(-1, self.classes), tail], -1)


@dataclass(frozen=True)
class Form:
    """How rows of k of so many classes lie in a file: records of fixed width, one a row."""

    k: int
    classes: int
    half: bool

    @property
    def record(self) -> "np.dtype[np.void]":
        place = "<u2" if self.classes <= 1 << 16 else "<i4"
        logit = "<f2" if self.half else "<f4"
        return np.dtype(
            [("classes", place, (self.k,)), ("logits", logit, (self.k,)), ("rest", "<f4"), ("mean", "<f4")]
        )

    def packed(self, logits: Tensor) -> "Array":
        """(B, C) -> bytes (B, width)."""
        found = Lumped.of(logits, self.k)
        records = np.zeros(len(logits), self.record)
        for name in records.dtype.names or ():
            records[name] = getattr(found, name).cpu().numpy()
        return records.view(np.uint8).reshape(len(logits), self.record.itemsize)

    def unpacked(self, records: Tensor) -> Lumped:
        """Bytes (B, width), on any device."""

        fields = self.record.fields
        assert fields is not None

        def part(name: str) -> Tensor:
            kind, start = fields[name][:2]
            found = records[:, start : start + kind.itemsize].contiguous()
            if name == "classes":
                short = kind.itemsize == 2 * self.k
                return found.view(torch.int16).long() & 0xFFFF if short else found.view(torch.int32).long()
            half = name == "logits" and self.half
            return found.view(torch.float16 if half else torch.float32).float()

        others = self.classes - self.k
        return Lumped(part("classes"), part("logits"), part("rest")[:, 0], part("mean")[:, 0], others)


class LumpedRows:
    """Stored records, gathered by row number. places: (C,), for each of the teacher's classes its place among
    the job's labels; None: the same."""

    def __init__(self, records: "Rows", form: Form, places: Tensor | None = None) -> None:
        self._records, self._form = records, form
        self._places = torch.arange(form.classes) if places is None else places

    def __getitem__(self, index: Tensor) -> Lumped:
        found = self._form.unpacked(self._records[index])
        places = self._places.to(found.classes.device)
        return Lumped(places[found.classes], found.logits, found.rest, found.mean, found.others)
