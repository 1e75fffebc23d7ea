"""Residual convolutional networks (He et al., 2015)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Input
from app.catalog.huggingface import Depths, ImageFamily, Width, Widths, too_small
from app.catalog.work import Work, mapped


class ResNet(ImageFamily):
    """A residual convolutional network: robust and quick to train, also on little data."""

    kind: Literal["resnet"] = "resnet"
    embedding_size: Width = Field(32, description="channels after the first convolution")
    hidden_sizes: Widths = Field((32, 64, 128, 256), description="channels of each stage")
    depths: Depths = Field((2, 2, 2, 2), description="blocks of each stage")
    layer_type: Literal["basic", "bottleneck"] = Field(
        "basic", description="bottleneck: the better choice from about 50 layers on"
    )
    hidden_act: Literal["relu", "gelu", "silu"] = "relu"
    downsample_in_first_stage: bool = Field(False, description="halve the image in the first stage too")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError("hidden_sizes and depths need one entry a stage, so the same number of entries")
        if self.layer_type == "bottleneck" and min(self.hidden_sizes) < 4:
            raise ValueError("a bottleneck needs hidden_sizes of at least 4")
        return self

    def misfit(self, height: int, width: int) -> str | None:
        stride = 4 * 2 ** (len(self.depths) - 1 + self.downsample_in_first_stage)
        return too_small(self.kind, height, width, stride // 2 + 1)

    def parameters(self, input: Input, classes: int) -> int:
        total = input.shape[0] * self.embedding_size * 49 + 2 * self.embedding_size
        before = self.embedding_size
        for stage, (width, depth) in enumerate(zip(self.hidden_sizes, self.depths, strict=True)):
            halves = stage > 0 or self.downsample_in_first_stage
            shortcut = before * width + 2 * width if halves or before != width else 0
            total += self._block(before, width) + shortcut + (depth - 1) * self._block(width, width)
            before = width
        return total + (before + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        _, height, width = input.shape
        area = max(1, height * width // 4)
        total = mapped(input.shape[0] * self.embedding_size * 49, self.embedding_size, area)
        area, before = max(1, area // 4), self.embedding_size
        for stage, (channels, depth) in enumerate(zip(self.hidden_sizes, self.depths, strict=True)):
            area = max(1, area // 4) if stage > 0 or self.downsample_in_first_stage else area
            kept = channels * (3 if self.layer_type == "basic" else 2)
            total += mapped(self._block(before, channels) + before * channels, kept + channels, area)
            total += mapped(self._block(channels, channels), kept, area) * (depth - 1)
            before = channels
        return total

    def _block(self, before: int, width: int) -> int:
        if self.layer_type == "basic":
            return 9 * before * width + 9 * width * width + 4 * width
        narrow = width // 4
        return before * narrow + 9 * narrow * narrow + narrow * width + 4 * narrow + 2 * width
