"""The flow from one layer to the next."""

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import aligned, counted, positions, same_width

if TYPE_CHECKING:
    from torch import Tensor


class FSP(FeatureLoss):
    """Match how the channels of each layer go with those of the next one: consecutive pairs, so at least two.

    The larger map of two neighbors is average-pooled; a projector stands where the student is not as wide as
    its teacher. Summed over the steps.
    """

    by_rows: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    fewest: ClassVar[int] = 2
    usual_weight: ClassVar[float | None] = 50
    paper: ClassVar[str] = "Yim et al., 2017, A Gift from Knowledge Distillation"
    definition: ClassVar[str] = (
        "sum_i mean (Gs_i - Gt_i)^2, G_i = mean over positions of F_i F_{i+1}^T, channel by channel"
    )

    kind: Literal["fsp"] = "fsp"

    def align(self, student: "Tensor", teacher: "Tensor", tokens: "Tensor | None") -> "tuple[Tensor, Tensor]":
        """As they are: what is compared has no space."""
        return student, teacher

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of consecutive layers, at least two a side."""
    student, teacher, tokens = counted(student, teacher, mask)
    for mine, theirs in zip(student, teacher, strict=True):
        same_width(mine, theirs)
    total = student[0].new_zeros(())
    for mine, theirs in zip(_flows(student, tokens), _flows(teacher, tokens), strict=True):
        found = (mine - theirs).square()
        total = total + (found.mean() if found.numel() else found.sum())
    return total


def _flows(layers: "list[Tensor]", tokens: "Tensor | None") -> "list[Tensor]":
    """(B, c of the next, c) of every two neighbors."""
    flows = []
    for neighbors in pairwise(layers):
        below, above = (positions(one) for one in aligned(*neighbors, tokens))
        count = below.shape[2] if tokens is None or neighbors[0].ndim != 3 else tokens.sum(1)[:, None, None]
        flows.append(above @ below.transpose(1, 2) / count)
    return flows
