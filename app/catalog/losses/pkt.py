"""Rows of a batch as each other's neighbors."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import RepresentationLoss
from app.catalog.layer_tensors import counted, vectors

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-7


class PKT(RepresentationLoss):
    """Match how likely each row takes each other one for its neighbor, by cosine, whatever the widths.

    Small by nature: weight 30000 in the authors' CIFAR recipe. Of a batch of one it is 0.
    """

    usual_weight: ClassVar[float | None] = 30000
    paper: ClassVar[str] = (
        "Passalis and Tefas, 2018, Learning Deep Representations with Probabilistic Knowledge Transfer"
    )
    definition: ClassVar[str] = (
        "mean_ij Pt_ij log((Pt_ij + 1e-7) / (Ps_ij + 1e-7)), rows of P = (1 + cos_ij) / 2, each / its sum"
    )

    kind: Literal["pkt"] = "pkt"

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of representations (B, ...)."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        q, p = _neighbors(vectors(mine, tokens)), _neighbors(vectors(theirs, tokens))
        found = p * ((p + EPS) / (q + EPS)).log()
        total = total + (found.mean() if found.numel() else found.sum())
    return total


def _neighbors(rows: "Tensor") -> "Tensor":
    """(B, B), each row a distribution."""
    square = rows.square().sum(1, keepdim=True)
    norm = square.where(square > 0, 1.0).sqrt()  # the root of a zero row would have an infinite gradient
    near = rows / (norm + EPS)
    cosine = (1 + near @ near.T) / 2
    return cosine / cosine.sum(1, keepdim=True)
