"""Information about the teacher that the student's layers hold."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import average, matched, width

if TYPE_CHECKING:
    from torch import Tensor


class VID(FeatureLoss):
    """Tell the teacher's features from the student's, as a Gaussian with a learned mean and variances.

    The mean is a small network over each position; one variance is learned for each channel of the teacher,
    so that what cannot be told counts less. It may be negative. Summed over the pairs.
    """

    usual_weight: ClassVar[float | None] = 1
    paper: ClassVar[str] = "Ahn et al., 2019, Variational Information Distillation for Knowledge Transfer"
    definition: ClassVar[str] = (
        "sum_pairs 1/2 mean [(mu(Fs) - Ft)^2 / s^2 + log s^2], s^2 learned per channel"
    )

    kind: Literal["vid"] = "vid"
    initial_variance: Annotated[float, Field(ge=1e-3, le=1e6, description="of every channel")] = 5.0

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.vid._torch import Variational

        widths = [(width(mine), width(theirs)) for mine, theirs in self.shapes(context)]
        return Variational(self, widths, context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, initial_variance=self.initial_variance)


def value(
    student: "list[Tensor]",
    teacher: "list[Tensor]",
    mask: "Tensor | None" = None,
    *,
    initial_variance: float = 5.0,
    variances: "Sequence[Tensor] | None" = None,
) -> "Tensor":
    """Of lists of told and true features of equal widths, one a pair.

    variances: (c,) a pair, as they were learned; None: all are the initial one.
    """
    student, teacher, tokens = matched(student, teacher, mask)
    if variances is None:
        variances = [one.new_full((width(one.shape),), initial_variance) for one in teacher]
    total = student[0].new_zeros(())
    for mine, theirs, variance in zip(student, teacher, variances, strict=True):
        spread = variance[:, None, None] if mine.ndim == 4 else variance
        total = total + average((mine - theirs).square() / spread + spread.log(), tokens) / 2
    return total
