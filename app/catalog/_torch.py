"""The learned parts that losses over layers share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import counted


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules made inside draw their weights from `seed`; the random stream outside does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Projector(nn.Linear):
    """One linear map of every position: of tokens and vectors a linear layer, of a map a 1x1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4:
            return super().forward(input)
        return nn.functional.conv2d(input, self.weight[..., None, None], self.bias)


def projector(student: int, teacher: int) -> nn.Module:
    """From the student's width to the teacher's; nothing is learned where they are equal."""
    return nn.Identity() if student == teacher else Projector(student, teacher)


class Projected(nn.Module):
    """A loss over pairs of layers, with a projector for the student's side of each."""

    def __init__(self, form: FeatureLoss, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form = form
        with seeded(seed):
            self.projectors = nn.ModuleList(projector(mine, other) for mine, other in widths)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs, tokens = counted(*self.form.sides(student, teacher), batch.mask)
        met = [self.form.align(one, other, tokens) for one, other in zip(mine, theirs, strict=True)]
        projected = [project(one) for project, (one, _) in zip(self.projectors, met, strict=True)]
        return self.form.compare(projected, [other for _, other in met], tokens)


def uniform(seed: int, *words: Tensor) -> Tensor:
    """Numbers of [0, 1), float64, as a pure function of the seed and whole numbers, broadcast together.

    Nothing waits for the device, nothing moves a random stream, and a resumed run draws the same.
    """
    mixed = _mix(words[0] & _WORD) ^ (seed & _WORD)
    for word in words[1:]:
        mixed = _mix(mixed) ^ _mix(~word & _WORD)
    return _mix(_mix(mixed) + 1 & _WORD).double() / (_WORD + 1)


_WORD = 0xFFFFFFFF


def _mix(word: Tensor) -> Tensor:
    """A permutation of the 32-bit numbers that leaves no pattern (two rounds of multiply and xor-shift,
    Mueller's constant); its products fit into int64."""
    for _ in range(2):
        word = ((word ^ (word >> 16)) * 0x45D9F3B) & _WORD
    return word ^ (word >> 16)
