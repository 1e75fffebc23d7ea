"""Where single neurons are active."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import aligned, counted, positions, spread, unit

if TYPE_CHECKING:
    from torch import Tensor


class NST(FeatureLoss):
    """Match how the channels' patterns over positions are distributed, whatever the widths.

    It is the maximum mean discrepancy with the kernel (x y)^2. The larger map is average-pooled. Summed over
    the pairs.
    """

    by_rows: ClassVar[bool] = True
    across_families: ClassVar[str] = (
        "58.2 against 64.6 without a teacher for vgg13 to MobileNetV2, CIFAR-100, RepDistiller's table"
    )
    usual_weight: ClassVar[float | None] = 50
    paper: ClassVar[str] = "Huang and Wang, 2017, Like What You Like: Neuron Selectivity Transfer"
    definition: ClassVar[str] = (
        "sum_pairs mean_b [mean k(t, t') + mean k(s, s') - 2 mean k(s, t)], k(x, y) = (x y)^2, "
        "s and t the channels of Fs and Ft over positions, each / its L2 norm"
    )

    kind: Literal["nst"] = "nst"

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of maps (B, c, h, w) or tokens (B, T, D), one a pair."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        spread("nst", *pair)
        mine, theirs = (unit(positions(one)) for one in aligned(*pair, tokens))
        total = total + _kernel(theirs, theirs) + _kernel(mine, mine) - 2 * _kernel(mine, theirs)
    return total


def _kernel(one: "Tensor", other: "Tensor") -> "Tensor":
    """The mean over rows and pairs of channels of (x y)^2; both (B, c, n)."""
    found = (one @ other.transpose(1, 2)).square()
    return found.mean() if found.numel() else found.sum()
