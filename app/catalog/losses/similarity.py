"""Which rows of a batch resemble each other."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import counted, unit

if TYPE_CHECKING:
    from torch import Tensor


class Similarity(FeatureLoss):
    """Match how alike the rows of a batch are at each layer; widths and sizes of the layers may differ.

    Of a batch of one it is 0. Summed over the pairs.
    """

    batch_statistic: ClassVar[bool] = True
    usual_weight: ClassVar[float | None] = 3000
    paper: ClassVar[str] = "Tung and Mori, 2019, Similarity-Preserving Knowledge Distillation"
    definition: ClassVar[str] = (
        "sum_pairs |Gs - Gt|^2 / B^2, G = F F^T with F as B flat rows, each row of G / its L2 norm"
    )

    kind: Literal["similarity"] = "similarity"

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of features (B, ...), one a pair."""
    student, teacher, _ = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        total = total + (_alike(mine) - _alike(theirs)).square().sum() / max(len(mine), 1) ** 2
    return total


def _alike(layer: "Tensor") -> "Tensor":
    """(B, B)."""
    flat = layer.flatten(1)
    return unit(flat @ flat.T)
