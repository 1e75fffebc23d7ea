"""Bidirectional transformers over tokens (Devlin et al., 2018)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from app.catalog.base import Input
from app.catalog.huggingface import Depth, Dropout, TextFamily, Width
from app.catalog.work import Work, transformer_layer


class Bert(TextFamily):
    """A transformer in which every token of a text attends to every other; it wants a pretrained teacher."""

    kind: Literal["bert"] = "bert"
    hidden_size: Width = Field(128, description="width of a token's representation, a multiple of the heads")
    num_hidden_layers: Depth = 2
    num_attention_heads: int = Field(2, ge=1, le=1024)
    intermediate_size: int = Field(512, ge=1, le=524_288, description="width inside a layer")
    hidden_act: Literal["gelu", "relu", "silu"] = "gelu"
    hidden_dropout_prob: Dropout = 0.1
    attention_probs_dropout_prob: Dropout = 0.1
    type_vocab_size: int = Field(
        2, ge=1, le=16, description="kinds of segments; a text is of the first, and BERT itself has 2"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {heads}"
            )
        return self

    def parameters(self, input: Input, classes: int) -> int:
        hidden, inner = self.hidden_size, self.intermediate_size
        rows = (input.vocabulary or 0) + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * (hidden + 1) * hidden + 2 * hidden * inner + inner + hidden + 4 * hidden
        pooler = (hidden + 1) * hidden
        return (rows + 2) * hidden + self.num_hidden_layers * layer + pooler + (hidden + 1) * classes

    def work(self, input: Input, classes: int) -> Work:
        layer = transformer_layer(
            self.hidden_size, self.intermediate_size, self.num_attention_heads, input.shape[0]
        )
        return layer * self.num_hidden_layers
