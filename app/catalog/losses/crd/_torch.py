"""Embeddings and memory banks."""

from math import sqrt

import torch
from torch import Tensor, nn

from app.catalog._torch import seeded, uniform
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import counted, counted_indices, unit, vectors
from app.catalog.losses.crd import CRD, log_normalizer, noise_contrast


class Contrast(nn.Module):
    """widths: of the student's representation and of the teacher's. rows: training rows, each with a place in
    both banks.

    All that a resumed run needs is in its buffers: the banks, log Z of both sides (infinite: not yet known),
    and `step`, the count of batches trained on; the drawn negatives are a pure function of it and the seed.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_normalizers: Tensor
    step: Tensor

    def __init__(self, form: CRD, widths: tuple[int, int], *, rows: int, seed: int) -> None:
        super().__init__()
        self.form, self.seed = form, seed
        self.rows = max(rows, 1)
        self.negatives = min(form.negatives, self.rows - 1)
        with seeded(seed):
            self.student, self.teacher = (nn.Linear(width, form.embed) for width in widths)
            for side in ("student", "teacher"):
                bank = (torch.rand(self.rows, form.embed) * 2 - 1) * sqrt(3 / form.embed)
                self.register_buffer(f"{side}_bank", bank)
        self.register_buffer("log_normalizers", torch.full((2,), torch.inf))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        (mine,), (theirs,), tokens = counted(*self.form.sides(student, teacher), batch.mask)
        embedded = unit(self.student(vectors(mine, tokens))), unit(self.teacher(vectors(theirs, tokens)))
        if not len(mine):
            return (embedded[0] + embedded[1]).sum()  # of no rows, which is 0
        own = counted_indices(batch)
        assert own is not None, "memory banks are kept by row number"
        chosen = self._chosen(own)
        banks = self.teacher_bank, self.student_bank
        sides = [self._scores(one, bank, chosen) for one, bank in zip(embedded, banks, strict=True)]
        found = torch.stack([log_normalizer(side, self.rows) for side in sides])
        normalizers = torch.where(self.log_normalizers.isinf(), found, self.log_normalizers)
        if self.training:
            self._remember(own, embedded, normalizers)
        parts = zip(sides, normalizers, strict=True)
        return torch.stack([noise_contrast(side - log_z, self.rows) for side, log_z in parts]).sum()

    def _chosen(self, own: Tensor) -> Tensor:
        """(B, 1 + K): each row itself, then rows other than it, each as likely as any."""
        places = torch.arange(self.negatives, device=own.device)
        drawn = uniform(self.seed, self.step, own[:, None], places)
        others = (own[:, None] + 1 + (drawn * (self.rows - 1)).long()) % self.rows
        return torch.cat([own[:, None], others], 1)

    def _scores(self, embedded: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """(B, 1 + K), whichever way needs less memory: all rows' scores, or the chosen rows' embeddings."""
        if self.rows <= chosen.shape[1] * self.form.embed:
            scores = (embedded @ bank.clone().T).gather(
                1, chosen
            )  # the bank changes before the backward pass
        else:
            scores = (bank[chosen] @ embedded[:, :, None]).squeeze(2)
        return scores / self.form.temperature

    @torch.no_grad()
    def _remember(self, own: Tensor, embedded: tuple[Tensor, Tensor], log_normalizers: Tensor) -> None:
        self.step += 1
        self.log_normalizers.copy_(log_normalizers)
        for bank, new in zip((self.student_bank, self.teacher_bank), embedded, strict=True):
            kept = self.form.momentum
            bank.index_copy_(0, own, unit(kept * bank[own] + (1 - kept) * new))
