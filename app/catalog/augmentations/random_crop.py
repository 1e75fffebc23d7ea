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
        from torch.nn.functional import pad

        count, channels, height, width = rows.shape
        down, right = (chance(2) * (2 * self.padding + 1)).long().unbind(1)
        batch, channel, y, x = (rows.new_ones(size).cumsum(0).long() - 1 for size in rows.shape)
        return pad(rows, [self.padding] * 4)[
            batch.view(count, 1, 1, 1),
            channel.view(1, channels, 1, 1),
            (down[:, None] + y).view(count, 1, height, 1),
            (right[:, None] + x).view(count, 1, 1, width),
        ]
