"""Modernized convolutional networks (Liu et al., 2022)."""

from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Input
from app.catalog.huggingface import Depths, Dropout, ImageFamily, Widths, too_small
from app.catalog.work import NOTHING, Work, mapped


class ConvNext(ImageFamily):
    """A convolutional network in the manner of transformers: accurate for its size, slow to train."""

    quantization: ClassVar[Literal["static", "dynamic"]] = "dynamic"  # most of it is dense; measured

    kind: Literal["convnext"] = "convnext"
    patch_size: int = Field(
        4, ge=1, le=64, description="edge in pixels of the squares that the first layer makes one"
    )
    hidden_sizes: Widths = Field((40, 80, 160, 320), description="channels of each stage")
    depths: Depths = Field((2, 2, 6, 2), description="blocks of each stage")
    hidden_act: Literal["gelu", "relu", "silu"] = "gelu"
    layer_scale_init_value: float = Field(
        1e-6, ge=0, le=1, description="how much each block adds at first; 0: all of it, unscaled"
    )
    drop_path_rate: Dropout = Field(0.0, description="chance that the last block is left out of a step")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError("hidden_sizes and depths need one entry a stage, so the same number of entries")
        return self

    def misfit(self, height: int, width: int) -> str | None:
        return too_small(self.kind, height, width, self.patch_size * 2 ** (len(self.depths) - 1))

    def config(self, input: Input) -> dict[str, Any]:
        return super().config(input) | {"num_stages": len(self.depths)}

    def parameters(self, input: Input, classes: int) -> int:
        first, last = self.hidden_sizes[0], self.hidden_sizes[-1]
        total = input.shape[0] * self.patch_size**2 * first + 3 * first
        total += sum(2 * before + 4 * before * width + width for before, width in pairwise(self.hidden_sizes))
        scale = self.layer_scale_init_value > 0
        for width, depth in zip(self.hidden_sizes, self.depths, strict=True):
            total += depth * (
                8 * width * width + (57 + scale) * width
            )  # 7 x 7 convolution, norm, two linear layers
        return total + 2 * last + (last + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        channels, height, width = input.shape
        area = max(1, height * width // self.patch_size**2)
        total, before = NOTHING, 0
        for size, depth in zip(self.hidden_sizes, self.depths, strict=True):
            area = max(1, area // 4) if before else area
            entry = 4 * before * size if before else channels * self.patch_size**2 * size
            total += mapped(entry, size, area) + mapped(8 * size * size + 49 * size, 6 * size, area) * depth
            before = size
        return total
