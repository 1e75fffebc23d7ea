"""Hidden states, number by number."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import mean_squares

if TYPE_CHECKING:
    from torch import Tensor


class HiddenMSE(FeatureLoss):
    """Match the hidden states of encoder layers: the mean squared difference over the tokens that count.

    A projector stands where the student is not as wide as its teacher. Summed over the pairs.
    """

    projects: ClassVar[bool] = True
    paper: ClassVar[str] = "Jiao et al., 2020, TinyBERT: Distilling BERT for Natural Language Understanding"
    definition: ClassVar[str] = "sum_pairs mean over counted tokens and widths of (W Hs - Ht)^2"

    kind: Literal["hidden_mse"] = "hidden_mse"

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of hidden states (B, T, D), one a pair."""
    return mean_squares(student, teacher, mask)
