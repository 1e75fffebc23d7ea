"""Hidden states, by their direction."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import average, matched, rows

if TYPE_CHECKING:
    from torch import Tensor


class HiddenCosine(FeatureLoss):
    """Match the direction of the hidden states of encoder layers, token by token.

    A projector stands where the student is not as wide as its teacher. Summed over the pairs.
    """

    projects: ClassVar[bool] = True
    paper: ClassVar[str] = "Sanh et al., 2019, DistilBERT, a distilled version of BERT"
    definition: ClassVar[str] = "sum_pairs mean over counted tokens of 1 - cos(W Hs, Ht)"

    kind: Literal["hidden_cosine"] = "hidden_cosine"

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of hidden states (B, T, D), one a pair."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        total = total + average(1 - _cosine(rows(mine, tokens), rows(theirs, tokens)))
    return total


def _cosine(one: "Tensor", other: "Tensor") -> "Tensor":
    """(N,); 0 where one of the two is a zero vector."""
    squares = [side.square().sum(-1) + 1e-12 for side in (one, other)]
    return (one * other).sum(-1) / (squares[0].sqrt() * squares[1].sqrt())
