"""The last layer's self-attention: its distributions and the relations of its values."""

from collections.abc import Callable
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import counted_heads, same_heads

if TYPE_CHECKING:
    from torch import Tensor


class MiniLM(FeatureLoss):
    """Match the self-attention of the last layer, and how its value vectors relate to each other.

    `pairs` are attention modules, the last one of each side in the paper; both sides need the same number of
    heads, whose widths may differ. The mean over heads and tokens that count. Summed over the pairs.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attentions", "values"})
    last_alone: ClassVar[bool] = True
    paper: ClassVar[str] = "Wang et al., 2020, MiniLM: Deep Self-Attention Distillation"
    definition: ClassVar[str] = (
        "sum_pairs mean over heads and counted tokens of KL(At ; As) + KL(Rt ; Rs), "
        "R = softmax(V V^T / sqrt(d))"
    )

    kind: Literal["minilm"] = "minilm"

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        for mine, theirs in self.shapes(context):
            same_heads(self.kind, mine, theirs)
        return self

    def sides(self, student: Outputs, teacher: Outputs) -> "tuple[list[Tensor], list[Tensor]]":
        """Of each pair its attention and then its values."""
        assert self.pairs != "auto", "paired() comes first"
        mine = [part[path] for path, _ in self.pairs for part in (student.attentions, student.values)]
        theirs = [part[path] for _, path in self.pairs for part in (teacher.attentions, teacher.values)]
        return mine, theirs

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists with each pair's attention (B, H, T, T) and then its values (B, H, T, d).

    With a mask, attention and relations are those among the tokens that count.
    """
    student, teacher, tokens = counted_heads(student, teacher, mask)
    total = student[0].new_zeros(())
    for place, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
        same_heads("minilm", mine.shape, theirs.shape)
        log = _log_relations if place % 2 else _log_attention
        total = total + _divergence(log(theirs, tokens), log(mine, tokens), tokens)
    return total


def _log_attention(attention: "Tensor", tokens: "Tensor | None") -> "Tensor":
    """log A, (B, H, T, T); over the tokens that count."""
    if tokens is not None:
        attention = attention.masked_fill(~tokens[:, None, None, :], 0.0)
        attention = attention / attention.sum(-1, keepdim=True).clamp(min=1e-12)
    return attention.clamp(min=1e-12).log()


def _log_relations(values: "Tensor", tokens: "Tensor | None") -> "Tensor":
    """log softmax(V V^T / sqrt(d)), (B, H, T, T); over the tokens that count."""
    scores = values @ values.transpose(-1, -2) / sqrt(values.shape[-1])
    if tokens is not None:
        scores = scores.masked_fill(~tokens[:, None, None, :], float("-inf"))
    return scores.log_softmax(-1)


def _divergence(log_p: "Tensor", log_q: "Tensor", tokens: "Tensor | None") -> "Tensor":
    """KL(p ; q) of the last dimension, the mean over heads and counted tokens."""
    difference, p = log_p - log_q, log_p.exp()
    if tokens is not None:
        difference = difference.masked_fill(~tokens[:, None, None, :], 0.0)
    found = (p * difference).sum(-1).transpose(1, 2)  # (B, T, H)
    found = found if tokens is None else found[tokens]
    return found.mean() if found.numel() else found.sum()
