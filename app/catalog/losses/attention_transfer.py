"""Where a convolutional layer looks."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import aligned, average, counted, positions, spread, unit

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransfer(FeatureLoss):
    """Match where each layer is active: its channels' mean power, one number a position, of unit norm.

    The mean form, with weight 1000 in the CIFAR recipe (the paper's norm form is 26 times larger); the larger
    map is average-pooled before the power. Widths may differ. Summed over the pairs.
    """

    across_families: ClassVar[str] = (
        "59.4 against 64.6 without a teacher for vgg13 to MobileNetV2, CIFAR-100, RepDistiller's table"
    )
    usual_weight: ClassVar[float | None] = 1000
    paper: ClassVar[str] = "Zagoruyko and Komodakis, 2017, Paying More Attention to Attention"
    definition: ClassVar[str] = (
        "sum_pairs mean (n(a(Fs)) - n(a(Ft)))^2, a(F) = mean_c |F|^p at each position, n = / its L2 norm"
    )

    kind: Literal["attention_transfer"] = "attention_transfer"
    p: float = Field(2.0, ge=1, le=8, description="power of the activations")

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, p=self.p)


def value(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None, *, p: float = 2.0
) -> "Tensor":
    """Of lists of maps (B, c, h, w) or tokens (B, T, D), one a pair."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        spread("attention_transfer", *pair)
        mine, theirs = (_attention(one, p) for one in aligned(*pair, tokens))
        total = total + average((mine - theirs).square(), tokens)
    return total


def _attention(layer: "Tensor", p: float) -> "Tensor":
    """(B, n), each row of unit norm."""
    return unit(positions(layer).abs().pow(p).mean(1))
