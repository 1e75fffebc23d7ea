"""Mirror images."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


class HorizontalFlip(Augmentation):
    """Swap left and right of an image with probability p."""

    kind: Literal["horizontal_flip"] = "horizontal_flip"
    p: Annotated[float, Field(ge=0, le=1)] = 0.5

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        flipped = chance(1).view(-1, 1, 1, 1) < self.p
        return rows.flip(-1).where(flipped, rows)
