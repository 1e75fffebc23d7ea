"""The teacher's features in other words."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import average, matched, unit, width

if TYPE_CHECKING:
    from torch import Tensor


class FactorTransfer(FeatureLoss):
    """Match factors: a paraphraser's short form of the teacher's map, and a translator's of the student's.

    The paper's form. The paraphraser, half of an autoencoder, learns to rebuild the teacher's map alone in
    the first `stage_epochs` and is then fixed, while the translator learns with the student; without a stage
    it learns beside them. Rebuilding always has weight 1, whatever the term has. Summed over the pairs.
    """

    across_families: ClassVar[str] = (
        "61.8 against 64.6 without a teacher for vgg13 to MobileNetV2, CIFAR-100, RepDistiller's table"
    )
    usual_weight: ClassVar[float | None] = 200
    maps_only: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Kim, Park and Kwak, 2018, Paraphrasing Complex Network: Network Compression via Factor Transfer"
    )
    definition: ClassVar[str] = "sum_pairs mean |n(T(Fs)) - n(P(Ft))|, n = each row / its L2 norm"

    kind: Literal["factor_transfer"] = "factor_transfer"
    k: Annotated[float, Field(gt=0, le=4, description="channels of a factor for each one of the teacher")] = (
        0.5
    )
    stage_epochs: NonNegativeInt = Field(
        0, description="first epochs that train the paraphraser alone; 0: it learns beside the student"
    )

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.factor_transfer._torch import Factors

        widths = [(width(mine), width(theirs)) for mine, theirs in self.shapes(context)]
        return Factors(self, widths, context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of factors of equal widths, one a pair."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        mine, theirs = (unit(one.flatten(1)).view_as(one) for one in pair)
        total = total + average((mine - theirs).abs(), tokens)
    return total
