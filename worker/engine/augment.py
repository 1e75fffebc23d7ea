"""Training rows that are changed by chance: a pure function of (seed, epoch or view, row).

Neither the other rows of a batch, nor their order, nor the device matter, so there is no state to keep, and
teachers can be asked about a row before anybody learns from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from app.catalog._torch import uniform
from app.catalog.base import Augmentation, Chance, Vocabulary
from app.catalog.mixing import Mixing

if TYPE_CHECKING:
    from worker.engine.device import Rows

Moment = int | Tensor  # an epoch or a view: one of the batch, or (B,), one a row


@dataclass(frozen=True)
class Drawn:
    """rows: (B, ...), images in float32. partners: (B,), the rows that they are mixed with. share: (B,), how
    much of each is the row itself; both None: nothing is mixed."""

    rows: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None


class Augment:
    """forms: one after the other; of several that mix one is drawn for each row. partners: positions of the
    rows that others may be mixed with."""

    def __init__(
        self,
        forms: Sequence[Augmentation],
        rows: "Rows",
        *,
        partners: Tensor,
        seed: int,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self._forms, self._rows, self._seed, self._vocabulary = list(forms), rows, seed, vocabulary
        self._mixers = [place for place, form in enumerate(self._forms) if form.mixes]
        self._partners = partners

    def __call__(self, index: Tensor, moment: Moment) -> Drawn:
        """index: (B,), positions of rows."""
        drawn = Drawn(self._plain(index))
        for place, form in enumerate(self._forms):
            if isinstance(form, Mixing):
                drawn = self._mixed(drawn, index, moment, place)
            else:
                drawn = Drawn(self._changed(drawn.rows, index, moment, place), drawn.partners, drawn.share)
        return drawn

    def _plain(self, index: Tensor) -> Tensor:
        rows = self._rows[index]
        return rows.float() if rows.dtype == torch.uint8 else rows

    def _changed(self, rows: Tensor, index: Tensor, moment: Moment, place: int) -> Tensor:
        return self._forms[place](rows, self._chance(rows, index, moment, place), self._vocabulary)

    def _mixed(self, drawn: Drawn, index: Tensor, moment: Moment, place: int) -> Drawn:
        """With other training rows, as these are at the same moment before anything is mixed."""
        form, rows = self._forms[place], drawn.rows
        assert isinstance(form, Mixing)
        turn, partner = self._chance(rows, index, moment, len(self._forms))(2).unbind(1)
        partners = self._partners[(partner.cpu() * len(self._partners)).long()]
        others = self._plain(partners)
        for before in range(place):
            if before not in self._mixers:
                others = self._changed(others, partners, moment, before)
        mixed, share = form.mix(rows, others, self._chance(rows, index, moment, place))
        chosen = (turn * len(self._mixers)).long() == self._mixers.index(place)
        earlier = index if drawn.partners is None else drawn.partners
        whole = torch.ones_like(share) if drawn.share is None else drawn.share
        return Drawn(
            mixed.where(chosen.view(-1, *[1] * (rows.ndim - 1)), rows),
            partners.where(chosen.cpu(), earlier),
            share.where(chosen, whole),
        )

    def _chance(self, rows: Tensor, index: Tensor, moment: Moment, place: int) -> Chance:
        """Of one place in the list."""
        return chance(self._seed, moment, index.to(rows.device), place)


def chance(seed: int, moment: Moment, index: Tensor, place: int) -> Chance:
    """What is drawn for the rows `index`, (B,), on their device."""
    when = torch.as_tensor(moment, device=index.device)
    where = torch.as_tensor(place, device=index.device)
    rows, when = index[:, None], when[:, None] if when.ndim else when

    def draw(count: int) -> Tensor:
        return uniform(seed, rows, when, where, torch.arange(count, device=index.device))

    return draw
