"""Images that are moved about."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


class RandomCrop(Augmentation):
    """Put a black border around an image and cut its size out again, anywhere."""

    kind: Literal["random_crop"] = "random_crop"
    padding: Annotated[int, Field(ge=1, le=512)] = Field(
        4,
        description="pixels of the border, of those that the model with the largest input sees",
    )

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        import torch
        from torch.nn.functional import pad

        count, _, height, width = rows.shape
        down, right = (chance(2) * (2 * self.padding + 1)).long().unbind(1)
        windows = pad(rows, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(count, device=rows.device), :, down, right]
