"""Mirror images."""

from typing import Annotated, Literal

from pydantic import Field

from app.catalog.base import Augmentation


class HorizontalFlip(Augmentation):
    """Swap left and right of an image with probability p."""

    kind: Literal["horizontal_flip"] = "horizontal_flip"
    p: Annotated[float, Field(ge=0, le=1)] = 0.5
