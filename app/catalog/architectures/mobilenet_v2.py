"""Inverted residuals and linear bottlenecks (Sandler et al., 2018)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from app.catalog.base import Input
from app.catalog.huggingface import Dropout, ImageFamily, too_small
from app.catalog.work import Work, mapped

if TYPE_CHECKING:
    from torch import nn

_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_HALVES = (1, 3, 6, 13)  # blocks with stride 2, while the output stride allows it


class MobileNetV2(ImageFamily):
    """A convolutional network for phones: few parameters and few operations."""

    kind: Literal["mobilenet_v2"] = "mobilenet_v2"
    depth_multiplier: float = Field(0.5, gt=0, le=1000, description="share of the paper's channels")
    depth_divisible_by: int = Field(
        8, ge=1, le=64, description="every number of channels is a multiple of it"
    )
    min_depth: int = Field(8, ge=1, le=4096, description="fewest channels of a layer")
    expand_ratio: float = Field(
        6.0, ge=1, le=16, description="channels inside a block, as a multiple of those before it"
    )
    output_stride: Literal[8, 16, 32] = Field(
        32, description="how many times smaller the last feature map is; 8 suits small images"
    )
    first_layer_is_expansion: bool = True
    finegrained_output: bool = Field(
        True, description="keep 1,280 channels before the classifier when depth_multiplier < 1"
    )
    hidden_act: Literal["relu6", "relu", "silu"] = "relu6"
    tf_padding: bool = Field(True, description="pad as TensorFlow does")
    classifier_dropout_prob: Dropout = 0.2

    def misfit(self, height: int, width: int) -> str | None:
        return too_small(self.kind, height, width, self.output_stride // 2 + 1)

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        model = super().build(input, labels)
        for module in model.modules():
            if hasattr(
                module, "momentum"
            ):  # TensorFlow's 0.997 means in torch to forget all but the last batch
                setattr(module, "momentum", 0.1)  # noqa: B010  (mypy takes attributes of modules for tensors)
        return model

    def parameters(self, input: Input, classes: int) -> int:
        first, channels = self._scaled(32), [self._scaled(width) for width in _CHANNELS]
        last = 1280 if self.finegrained_output and self.depth_multiplier < 1 else self._scaled(1280)
        total = input.shape[0] * first * 9 + 2 * first + 11 * first + first * channels[0] + 2 * channels[0]
        if not self.first_layer_is_expansion:
            total += first * first + 2 * first
        for before, width in pairwise(channels):
            inner = self._divisible(round(before * self.expand_ratio))
            total += before * inner + 2 * inner + 11 * inner + inner * width + 2 * width
        return total + channels[-1] * last + 2 * last + (last + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        first, channels = self._scaled(32), [self._scaled(width) for width in _CHANNELS]
        area = max(1, input.shape[1] * input.shape[2] // 4)
        total = mapped(input.shape[0] * first * 9, first, area)
        total += mapped(first * 9 + first * channels[0], first + channels[0], area)
        stride = 2
        for place, (before, width) in enumerate(pairwise(channels), 1):
            inner = self._divisible(round(before * self.expand_ratio))
            total += mapped(before * inner, inner, area)
            if place in _HALVES and stride < self.output_stride:
                stride, area = 2 * stride, max(1, area // 4)
            total += mapped(9 * inner + inner * width, inner + width, area)
        last = 1280 if self.finegrained_output and self.depth_multiplier < 1 else self._scaled(1280)
        return total + mapped(channels[-1] * last, last, area)

    def _scaled(self, channels: int) -> int:
        return self._divisible(round(channels * self.depth_multiplier))

    def _divisible(self, channels: int) -> int:
        """Rounded to a multiple, never down by more than a tenth."""
        step = self.depth_divisible_by
        rounded = max(self.min_depth, int(channels + step / 2) // step * step)
        return rounded + step if rounded < 0.9 * channels else rounded
