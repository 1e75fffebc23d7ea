"""Images in another light."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

Strength = Annotated[float, Field(ge=0, le=1)]
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue, in this order, each by a factor of 1 - x to 1 + x.

    The hue is turned by up to its part of the color circle, either way. A gray image has no saturation and no
    hue.
    """

    kind: Literal["color_jitter"] = "color_jitter"
    brightness: Strength = 0.2
    contrast: Strength = 0.2
    saturation: Strength = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        moves = (chance(4) * 2 - 1).float().unbind(1)
        brightness, contrast, saturation, turn = (move.view(-1, 1, 1, 1) for move in moves)
        if self.brightness:
            rows = _bounded(rows * (1 + brightness * self.brightness))
        if self.contrast:
            rows = _away(rows, gray(rows).mean((2, 3), keepdim=True), 1 + contrast * self.contrast)
        if rows.shape[1] == 3 and self.saturation:
            rows = _away(rows, gray(rows), 1 + saturation * self.saturation)
        if rows.shape[1] == 3 and self.hue:
            rows = turned(rows, turn * self.hue)
        return rows


def gray(rows: "Tensor") -> "Tensor":
    """(B, 3 or 1, H, W) -> (B, 1, H, W), as Pillow weighs the colors."""
    if rows.shape[1] == 1:
        return rows
    return (rows * rows.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def turned(rows: "Tensor", turn: "Tensor") -> "Tensor":
    """Red, green and blue, with the hue moved by so much of a whole turn and nothing else."""
    value, least = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    spread = value - least
    red, green, blue = rows.unsqueeze(2).unbind(1)
    apart = spread + (spread == 0)
    sixths = ((green - blue) / apart).where(
        value == red, ((blue - red) / apart + 2).where(value == green, (red - green) / apart + 4)
    )
    places = sixths + 6 * turn + rows.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    away = places.remainder(6)
    moved: Tensor = value - spread * away.minimum(4 - away).clamp(0, 1)
    return moved


def _away(rows: "Tensor", middle: "Tensor", factor: "Tensor") -> "Tensor":
    return _bounded(middle + (rows - middle) * factor)


def _bounded(rows: "Tensor") -> "Tensor":
    return rows.clamp(0, 255)
