"""Images with a part of another one."""

from typing import TYPE_CHECKING, Literal

from app.catalog.base import Chance
from app.catalog.mixing import DRAWS, Mixing, beta

if TYPE_CHECKING:
    from torch import Tensor


class CutMix(Mixing):
    """Paste a rectangle of another training image; both labels count by their shares of the pixels.

    Of an image of which less than half would be left, it is the rectangle that stays (Yun et al., 2019).
    """

    kind: Literal["cutmix"] = "cutmix"

    def mix(self, rows: "Tensor", others: "Tensor", chance: Chance) -> "tuple[Tensor, Tensor]":
        draws = chance(2 * DRAWS + 2)
        edge, middles = (1 - beta(self.alpha, draws[:, :-2])).sqrt(), draws[:, -2:].unbind(1)
        height, width = rows.shape[-2:]
        down, across = _covered(height, edge, middles[0]), _covered(width, edge, middles[1])
        pasted = down[:, None, :, None] & across[:, None, None, :]
        share = 1 - pasted.float().mean((1, 2, 3))
        pasted = pasted ^ (share < 0.5).view(-1, 1, 1, 1)
        return others.where(pasted, rows), share.maximum(1 - share)


def _covered(size: int, edge: "Tensor", middle: "Tensor") -> "Tensor":
    """(B, size): the places of a stretch around a middle that lies anywhere; what stands over is cut off."""
    place = edge.new_ones(size).cumsum(0) - 1
    center, half = (middle * size).floor()[:, None], (edge * size / 2).floor()[:, None]
    return (place >= center - half) & (place < center + half)
