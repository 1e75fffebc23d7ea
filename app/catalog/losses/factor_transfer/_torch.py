"""Paraphrasers and translators."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.catalog._torch import seeded
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import average, counted, met_as_maps
from app.catalog.losses.factor_transfer import FactorTransfer, value


class Factors(nn.Module):
    """widths: of each pair's two layers."""

    def __init__(self, form: FactorTransfer, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form = form
        factors = [max(1, int(theirs * form.k)) for _, theirs in widths]
        with seeded(seed):
            self.paraphrasers = nn.ModuleList(
                _encoder(theirs, theirs, factor) for (_, theirs), factor in zip(widths, factors, strict=True)
            )
            self.rebuilders = nn.ModuleList(
                _decoder(factor, theirs) for (_, theirs), factor in zip(widths, factors, strict=True)
            )
            self.translators = nn.ModuleList(
                _encoder(mine, mine, factor) for (mine, _), factor in zip(widths, factors, strict=True)
            )
        self.at_epoch(0)

    def at_epoch(self, epoch: int) -> None:
        weight = self.form.at(epoch).weight
        self.in_stage = epoch < self.form.stage_epochs
        self.share = 1 / weight if weight else 0.0  # the weight that the term is given is taken out again

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs = met_as_maps(self.form.kind, *counted(*self.form.sides(student, teacher), batch.mask))
        factors = [paraphrase(one) for paraphrase, one in zip(self.paraphrasers, theirs, strict=True)]
        if self.in_stage:
            return self.share * self._rebuilt(factors, theirs)
        translated = [translate(one) for translate, one in zip(self.translators, mine, strict=True)]
        matched = value(translated, factors)
        return matched if self.form.stage_epochs else matched + self.share * self._rebuilt(factors, theirs)

    def _rebuilt(self, factors: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The mean squared error of the teacher's maps, rebuilt from their factors."""
        found = [
            average((rebuild(factor) - one).square())
            for rebuild, factor, one in zip(self.rebuilders, factors, teacher, strict=True)
        ]
        return torch.stack(found).sum()


def _encoder(width: int, middle: int, factor: int) -> nn.Sequential:
    sizes = [(width, middle), (middle, factor), (factor, factor)]
    return nn.Sequential(
        *(layer for a, b in sizes for layer in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)))
    )


def _decoder(factor: int, width: int) -> nn.Sequential:
    """Its last layer is linear: the teacher's features may have any sign and size."""
    sizes = [(factor, factor), (factor, width), (width, width)]
    layers = [
        layer for a, b in sizes for layer in (nn.ConvTranspose2d(a, b, 3, padding=1), nn.LeakyReLU(0.1))
    ]
    return nn.Sequential(*layers[:-1])
