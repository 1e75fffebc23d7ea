"""The generators, and what they may see."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.catalog._torch import projector, seeded, uniform
from app.catalog.base import Batch, Outputs
from app.catalog.features import counted, met_as_maps
from app.catalog.losses.mgd import MGD, value


class Generating(nn.Module):
    """widths: of each pair's two layers. `step` counts batches: a resumed run hides the same positions."""

    step: Tensor

    def __init__(self, form: MGD, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        self.form, self.seed = form, seed
        with seeded(seed):
            self.projectors = nn.ModuleList(projector(mine, theirs) for mine, theirs in widths)
            self.generators = nn.ModuleList(_generator(theirs) for _, theirs in widths)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mine, theirs = met_as_maps(self.form.kind, *counted(*self.form.sides(student, teacher), batch.mask))
        parts = zip(self.projectors, self.generators, mine, strict=True)
        made = [
            generate(self._seen(project(one), place)) for place, (project, generate, one) in enumerate(parts)
        ]
        if self.training:
            self.step += 1
        return value(made, theirs, alpha=self.form.alpha)

    def _seen(self, layer: Tensor, place: int) -> Tensor:
        """(B, c, h, w) with zeros at the hidden positions, the same ones in all channels."""
        rows, _, high, wide = layer.shape
        drawn = uniform(rows * high * wide, self.seed + place, self.step).view(rows, 1, high, wide)
        return layer * (drawn >= self.form.mask)


def _generator(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )
