"""Early layers learn from the teacher's late ones too."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import counted, met_as_maps, same_width, width

if TYPE_CHECKING:
    from torch import Tensor


class Review(FeatureLoss):
    """Fuse the student's layers from the deepest up, and match each fused map at several scales.

    Name the layers from the shallowest to the deepest; a vector is a map of one position. Fusion is learned
    and normalizes over the batch. Summed over the levels.
    """

    batch_statistic: ClassVar[bool] = True
    maps_only: ClassVar[bool] = True
    paper: ClassVar[str] = "Chen et al., 2021, Distilling Knowledge via Knowledge Review"
    definition: ClassVar[str] = (
        "sum_levels sum_l w_l mean (pool_l(ABF(Fs)) - pool_l(Ft))^2 / sum_l w_l, "
        "l = whole, 4, 2, 1 with w = 1, 1/2, 1/4, 1/8"
    )

    kind: Literal["review"] = "review"

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.review._torch import Reviewing

        widths = [(width(mine), width(theirs)) for mine, theirs in self.shapes(context)]
        return Reviewing(self, widths, context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """The hierarchical context loss of lists of maps of equal widths, one a level."""
    student, teacher, tokens = counted(student, teacher, mask)
    student, teacher = met_as_maps("review", student, teacher, tokens)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        same_width(*pair)
        total = total + _at_all_scales(*pair)
    return total


def _at_all_scales(student: "Tensor", teacher: "Tensor") -> "Tensor":
    """The mean squared difference of two maps, and of what is left of them at 4, 2 and 1 positions a side."""
    from torch.nn.functional import adaptive_avg_pool2d, mse_loss

    if not len(student):
        return student.sum()
    weight, weights, total = 1.0, 1.0, mse_loss(student, teacher)
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        weight /= 2
        weights += weight
        mine, theirs = (adaptive_avg_pool2d(one, (side, side)) for one in (student, teacher))
        total = total + weight * mse_loss(mine, theirs)
    return total / weights
