"""Attention maps, number by number."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import counted_heads, same_heads

if TYPE_CHECKING:
    from torch import Tensor


class AttentionMSE(FeatureLoss):
    """Match the attention of encoder layers head by head, over the pairs of tokens that count.

    `pairs` are attention modules; both sides need the same number of heads. Summed over the pairs.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attentions"})
    paper: ClassVar[str] = "Jiao et al., 2020, TinyBERT: Distilling BERT for Natural Language Understanding"
    definition: ClassVar[str] = "sum_pairs mean over heads and pairs of counted tokens of (As - At)^2"

    kind: Literal["attention_mse"] = "attention_mse"

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        for mine, theirs in self.shapes(context):
            same_heads(self.kind, mine, theirs)
        return self

    def count(self, batch: Batch, rows: int) -> "Tensor | int":
        """Pairs of tokens."""
        if batch.mask is None or batch.mask.ndim == 1:
            return super().count(batch, rows)
        return batch.mask.sum(1).square().sum()

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of attentions (B, H, T, T), one a pair.

    Without a token mask, scores that a model made very negative to hide a token are 0, as the authors do it.
    """
    student, teacher, tokens = counted_heads(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        same_heads("attention_mse", pair[0].shape, pair[1].shape)
        mine, theirs = (_there(one, tokens) for one in pair)
        square = (mine - theirs).square()
        if tokens is None:
            total = total + (square.mean() if square.numel() else square.sum())
        else:
            total = total + square.sum() / (tokens.sum(1).square().sum() * mine.shape[1]).clamp(min=1)
    return total


def _there(attention: "Tensor", tokens: "Tensor | None") -> "Tensor":
    """With zeros for what is paid to tokens that do not count."""
    if tokens is not None:
        return attention.masked_fill(~tokens[:, None, None, :], 0.0)
    return attention.masked_fill(attention <= -1e-3, 0.0)
