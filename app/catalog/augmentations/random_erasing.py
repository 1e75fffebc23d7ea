"""Images with a part missing."""

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.05, le=20)]


class RandomErasing(Augmentation):
    """With probability p, paint a rectangle of an image in the image's mean color (Zhong et al., 2020)."""

    kind: Literal["random_erasing"] = "random_erasing"
    p: Annotated[float, Field(ge=0, le=1)] = 0.5
    area: tuple[Share, Share] = Field((0.02, 0.33), description="least and largest share of the image")
    ratio: tuple[Ratio, Ratio] = Field((0.3, 3.3), description="least and largest height by width")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("area", "ratio"):
            least, largest = getattr(self, name)
            if least > largest:
                raise ValueError(f"{name}: the least, {least}, is more than the largest, {largest}")
        return self

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        erased, area, ratio, top, left = chance(5).unbind(1)
        height, width = rows.shape[-2:]
        pixels = _between(self.area, area) * height * width
        least, largest = self.ratio
        ratio = _between((math.log(least), math.log(largest)), ratio).exp()  # wide as often as high
        high = (pixels * ratio).sqrt().round().clamp(1, height)
        wide = (pixels / ratio).sqrt().round().clamp(1, width)
        inside = _span(height, high, top)[:, None, :, None] & _span(width, wide, left)[:, None, None, :]
        painted = inside & (erased < self.p).view(-1, 1, 1, 1)
        return rows.mean((2, 3), keepdim=True).where(painted, rows)


def _between(bounds: tuple[float, float], draw: "Tensor") -> "Tensor":
    least, largest = bounds
    return least + (largest - least) * draw


def _span(size: int, length: "Tensor", draw: "Tensor") -> "Tensor":
    """(B, size): which places a stretch of this length covers that begins anywhere where it fits."""
    begin = (draw * (size - length + 1)).floor()[:, None]
    place = begin.new_ones(size).cumsum(0) - 1
    return (place >= begin) & (place < begin + length[:, None])
