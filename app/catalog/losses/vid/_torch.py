"""What tells the teacher's features, and how sure it is."""

from collections.abc import Sequence
from math import expm1, log

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from app.catalog._torch import Projector, seeded
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import counted
from app.catalog.losses.vid import VID, value

LEAST = 1e-5  # variance


class Variational(nn.Module):
    """widths: of each pair's two layers."""

    def __init__(self, form: VID, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form = form
        with seeded(seed):
            self.means = nn.ModuleList(_mean(mine, theirs) for mine, theirs in widths)
        first = form.initial_variance - LEAST
        self.scales = nn.ParameterList(  # softplus turns them into variances
            torch.full((theirs,), first + log(-expm1(-first))) for _, theirs in widths
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs, tokens = counted(*self.form.sides(student, teacher), batch.mask)
        met = [self.form.align(one, other, tokens) for one, other in zip(mine, theirs, strict=True)]
        told = [mean(one) for mean, (one, _) in zip(self.means, met, strict=True)]
        variances = [softplus(scale) + LEAST for scale in self.scales]
        return value(told, [other for _, other in met], tokens, variances=variances)


def _mean(student: int, teacher: int) -> nn.Sequential:
    layers = [Projector(before, teacher, bias=False) for before in (student, teacher, teacher)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
