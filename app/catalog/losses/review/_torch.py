"""Attention-based fusion of the student's layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, interpolate

from app.catalog._torch import seeded
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import as_map, counted, map_only
from app.catalog.losses.review import Review, value


class Reviewing(nn.Module):
    """widths: of each level's two layers, the shallowest first."""

    def __init__(self, form: Review, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form = form
        middle, deepest = min(512, widths[-1][0]), len(widths) - 1
        with seeded(seed):
            self.fusions = nn.ModuleList(
                Fusion((mine, middle, theirs), fuses=level < deepest)
                for level, (mine, theirs) in enumerate(widths)
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs, tokens = counted(*self.form.sides(student, teacher), batch.mask)
        map_only(self.form.kind, tokens, *mine, *theirs)
        mine, theirs = [as_map(one) for one in mine], [as_map(one) for one in theirs]
        fused: list[Tensor] = []
        deeper = None
        for level in reversed(range(len(mine))):
            shown, deeper = self.fusions[level](mine[level], deeper, theirs[level].shape[2:])
            fused.insert(0, shown)
        return value(fused, theirs)


class Fusion(nn.Module):
    """One level: its own map and what comes from the deeper one, each position of each weighed by itself."""

    def __init__(self, widths: tuple[int, int, int], *, fuses: bool) -> None:
        super().__init__()
        mine, middle, theirs = widths
        narrow = nn.Conv2d(mine, middle, 1, bias=False)
        widen = nn.Conv2d(middle, theirs, 3, padding=1, bias=False)
        for part in (narrow, widen):
            nn.init.kaiming_uniform_(part.weight, a=1)
        self.narrow, self.widen = nn.Sequential(narrow, Norm(middle)), nn.Sequential(widen, Norm(theirs))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, own: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The map to compare, of the teacher's size, and what the next shallower level gets."""
        own = self.narrow(own)
        if self.attend is not None and deeper is not None:
            deeper = interpolate(deeper, own.shape[2:], mode="nearest")
            share = self.attend(torch.cat([own, deeper], 1))
            own = own * share[:, :1] + deeper * share[:, 1:]
        if own.shape[2:] != size:
            own = interpolate(own, size, mode="nearest")
        return self.widen(own), own


class Norm(nn.BatchNorm2d):
    """Of a single value a channel, which has no deviation, by the running figures."""

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() > input.shape[1]:
            return super().forward(input)
        figures = self.running_mean, self.running_var
        return batch_norm(input, *figures, self.weight, self.bias, training=False, eps=self.eps)
