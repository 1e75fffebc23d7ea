"""BERT without segments and pooler, made to be distilled into (Sanh et al., 2019)."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Input
from app.catalog.huggingface import Depth, Dropout, TextFamily, Width
from app.catalog.work import Work, transformer_layer


class DistilBert(TextFamily):
    """A plain transformer over tokens; its layers line up with those of BERT, from which it can start."""

    kind: Literal["distilbert"] = "distilbert"
    dim: Width = Field(128, description="width of a token's representation, a multiple of the heads")
    n_layers: Depth = 2
    n_heads: int = Field(2, ge=1, le=1024)
    hidden_dim: int = Field(512, ge=1, le=524_288, description="width inside a layer")
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    dropout: Dropout = 0.1
    attention_dropout: Dropout = 0.1
    seq_classif_dropout: Dropout = Field(0.2, description="in front of the classifier")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of n_heads {self.n_heads}")
        return self

    def config(self, input: Input) -> dict[str, Any]:
        return super().config(input) | {"sinusoidal_pos_embds": False}

    def parameters(self, input: Input, classes: int) -> int:
        dim, inner = self.dim, self.hidden_dim
        rows = (input.vocabulary or 0) + self.max_position_embeddings
        layer = 4 * (dim + 1) * dim + 2 * dim * inner + inner + dim + 4 * dim
        return (rows + 2) * dim + self.n_layers * layer + (dim + 1) * dim + (dim + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        return transformer_layer(self.dim, self.hidden_dim, self.n_heads, input.shape[0]) * self.n_layers
