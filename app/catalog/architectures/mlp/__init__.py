"""Perceptrons, for rows of numbers."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Architecture, Input
from app.catalog.work import NOTHING, Work, mapped

if TYPE_CHECKING:
    from torch import nn


class MLP(Architecture):
    """A multilayer perceptron: fully connected layers over a row of numbers."""

    exports: ClassVar[frozenset[str]] = frozenset({"safetensors", "onnx", "onnx_int8"})
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    quantization: ClassVar[Literal["static", "dynamic"]] = "dynamic"
    format: ClassVar[str] = "mlp"

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        (128, 64), max_length=64, description="width of each hidden layer; none at all makes a linear model"
    )
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1, description="share of each hidden layer left out of a step")

    def accepts(self, input: Input) -> str | None:
        if input.modality == "vector":
            return None
        choices = {
            "image": "images; choose resnet, convnext or vit",
            "text": "texts; choose bert or distilbert",
        }
        return f"mlp reads rows of numbers and this task gives {choices[input.modality]}"

    def parameters(self, input: Input, classes: int) -> int:
        widths = (*input.shape, *self.hidden_sizes, classes)
        return sum((before + 1) * width for before, width in pairwise(widths))

    def work(self, input: Input, classes: int) -> Work:
        widths = (*input.shape, *self.hidden_sizes, classes)
        return sum((mapped(before * width, width, 1) for before, width in pairwise(widths)), NOTHING)

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        from app.catalog.architectures.mlp._torch import Perceptron

        names = {str(place): name for place, name in enumerate(labels)}
        form = self.model_dump(mode="json", exclude={"kind"})
        return Perceptron(
            {"model_type": self.kind, "num_features": input.shape[0], "id2label": names, **form}
        )

    def load(self, folder: Path) -> "nn.Module":
        from app.catalog.architectures.mlp._torch import load

        return load(folder)
