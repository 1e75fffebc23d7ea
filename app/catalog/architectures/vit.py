"""Vision transformers (Dosovitskiy et al., 2020)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Input
from app.catalog.huggingface import Depth, Dropout, ImageFamily, Width
from app.catalog.work import Work, mapped, transformer_layer


class ViT(ImageFamily):
    """A vision transformer, in which patches of an image attend to each other; it wants much data."""

    quantization: ClassVar[Literal["static", "dynamic"]] = "dynamic"
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "features", "attentions", "values"})

    kind: Literal["vit"] = "vit"
    patch_size: int = Field(
        16, ge=1, le=1024, description="edge of a patch in pixels; divides the image's edges"
    )
    hidden_size: Width = Field(192, description="width of a patch's representation, a multiple of the heads")
    num_hidden_layers: Depth = 6
    num_attention_heads: int = Field(3, ge=1, le=1024)
    intermediate_size: int = Field(768, ge=1, le=524_288, description="width inside a layer")
    hidden_act: Literal["gelu", "relu", "silu"] = "gelu"
    hidden_dropout_prob: Dropout = 0.0
    attention_probs_dropout_prob: Dropout = 0.0
    qkv_bias: bool = Field(True, description="whether queries, keys and values have a bias")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {heads}"
            )
        return self

    def misfit(self, height: int, width: int) -> str | None:
        if height % self.patch_size == 0 == width % self.patch_size:
            return None
        fitting = [edge for edge in range(1, min(height, width) + 1) if height % edge == 0 == width % edge][
            -5:
        ]
        problem = f"patches of {self.patch_size} pixels do not divide images of {height} x {width}"
        return f"{problem}; set patch_size to one of {', '.join(map(str, fitting))}"

    def parameters(self, input: Input, classes: int) -> int:
        channels, height, width = input.shape
        hidden, inner = self.hidden_size, self.intermediate_size
        patches = (height // self.patch_size) * (width // self.patch_size)
        embedding = channels * self.patch_size**2 * hidden + hidden + hidden + (patches + 1) * hidden
        attention = 4 * hidden * hidden + hidden + 3 * hidden * self.qkv_bias
        layer = attention + 2 * hidden * inner + inner + hidden + 4 * hidden
        return embedding + self.num_hidden_layers * layer + 2 * hidden + (hidden + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        channels, height, width = input.shape
        patches = (height // self.patch_size) * (width // self.patch_size)
        embedding = mapped(channels * self.patch_size**2 * self.hidden_size, self.hidden_size, patches)
        layer = transformer_layer(
            self.hidden_size, self.intermediate_size, self.num_attention_heads, patches + 1
        )
        return embedding + layer * self.num_hidden_layers
