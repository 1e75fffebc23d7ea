"""The generators, and what they may see."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.catalog._torch import projector, seeded, uniform
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import counted, counted_indices, met_as_maps
from app.catalog.losses.mgd import MGD, value


class Generating(nn.Module):
    """widths: of each pair's two layers. The hidden positions are a pure function of (seed, epoch, row)."""

    def __init__(self, form: MGD, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form, self.seed, self.epoch = form, seed, 0
        with seeded(seed):
            self.projectors = nn.ModuleList(projector(mine, theirs) for mine, theirs in widths)
            self.generators = nn.ModuleList(_generator(theirs) for _, theirs in widths)

    def at_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs = met_as_maps(self.form.kind, *counted(*self.form.sides(student, teacher), batch.mask))
        rows = counted_indices(batch)
        made = []
        for place, one in enumerate(mine):
            seen = self.projectors[place](one) * self._shown(one, rows, place)
            made.append(self.generators[place](seen))
        return value(made, theirs, alpha=self.form.alpha)

    def _shown(self, layer: Tensor, rows: Tensor | None, place: int) -> Tensor:
        """(B, 1, h, w): True where a position is not hidden."""
        high, wide = layer.shape[2:]
        if rows is None:
            rows = torch.arange(len(layer), device=layer.device)
        positions = torch.arange(high * wide, device=layer.device)
        epoch = torch.full_like(positions, self.epoch)
        drawn = uniform(self.seed + place, epoch, rows[:, None], positions)
        return (drawn >= self.form.mask).view(-1, 1, high, wide)


def _generator(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )
