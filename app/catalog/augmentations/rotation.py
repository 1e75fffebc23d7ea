"""Images that are turned."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


class Rotation(Augmentation):
    """Turn an image around its middle by up to so many degrees, either way; what comes in is black."""

    kind: Literal["rotation"] = "rotation"
    degrees: Annotated[float, Field(gt=0, le=180)] = 10.0

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        import torch
        from torch.nn.functional import affine_grid, grid_sample

        height, width = rows.shape[-2:]
        angle = (chance(1).squeeze(1) * 2 - 1) * math.radians(self.degrees)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # the grid's units are half a height and half a width
        turned = [cos, sin * (height / width), zero, -sin * (width / height), cos, zero]
        grid = affine_grid(
            torch.stack(turned, 1).view(-1, 2, 3).float(), list(rows.shape), align_corners=False
        )
        return grid_sample(rows, grid, align_corners=False)
