"""Rows that are mixed with another one, and how much of a row stays itself."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from app.catalog.base import Augmentation, Chance

if TYPE_CHECKING:
    from torch import Tensor

ATTEMPTS = 8  # each succeeds in 95 % of the rows or more
DRAWS = 3 * ATTEMPTS + 1  # of one gamma variable


class Mixing(Augmentation):
    """A plug-in writes `mix`. A row stays the larger part of what it is mixed into."""

    mixes: ClassVar[bool] = True
    alpha: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="of Beta(alpha, alpha), from which the share of the other row is drawn"
    )

    def mix(self, rows: "Tensor", others: "Tensor", chance: Chance) -> "tuple[Tensor, Tensor]":
        """Rows and those they are mixed with, (B, C, H, W), to the mixed ones and to the share of each row
        itself in its own, (B,), at least a half."""
        raise NotImplementedError


def beta(alpha: float, draws: "Tensor") -> "Tensor":
    """A variable of Beta(alpha, alpha) for each row, (B,). draws: (B, 2 * DRAWS)."""
    one, other = (_log_gamma(alpha, part) for part in draws.split(DRAWS, 1))  # type: ignore[no-untyped-call]
    share: Tensor = (one - other).sigmoid()
    return share


def _log_gamma(alpha: float, draws: "Tensor") -> "Tensor":
    """The logarithm of a variable of Gamma(alpha): Marsaglia and Tsang, 2000, A Simple Method for Generating
    Gamma Variables, of alpha + 1, and brought down to alpha as they say there."""
    radius, angle, level, *_ = (1 - draws[:, :-1]).view(len(draws), 3, ATTEMPTS).unbind(1)
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    d = alpha + 2 / 3
    cube = (1 + normal / math.sqrt(9 * d)).clamp(min=1e-9) ** 3
    accepted = level.log() < normal.square() / 2 + d * (1 - cube + cube.log())
    first = accepted.int().argmax(1, keepdim=True)
    return math.log(d) + cube.log().gather(1, first).squeeze(1) + (1 - draws[:, -1]).log() / alpha
