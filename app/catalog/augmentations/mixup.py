"""Images that shine through each other."""

from typing import TYPE_CHECKING, Literal

from app.catalog.base import Chance
from app.catalog.mixing import DRAWS, Mixing, beta

if TYPE_CHECKING:
    from torch import Tensor


class Mixup(Mixing):
    """Mean of an image and another training image, weighted by chance; both labels count by their shares.

    The teacher answers the mixed image itself (Zhang et al., 2018, mixup; Beyer et al., 2022, for
    distillation).
    """

    kind: Literal["mixup"] = "mixup"

    def mix(self, rows: "Tensor", others: "Tensor", chance: Chance) -> "tuple[Tensor, Tensor]":
        drawn = beta(self.alpha, chance(2 * DRAWS))
        share = drawn.maximum(1 - drawn).float()
        weight = share.view(-1, 1, 1, 1)
        return rows * weight + others * (1 - weight), share
