"""Teacher features generated from what is left of the student's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import matched, width

if TYPE_CHECKING:
    from torch import Tensor


class MGD(FeatureLoss):
    """Hide random positions of the student's map and generate the teacher's whole map from the others.

    For dense prediction: layers with maps, or tokens that are one. Projector and generator are learned. Which
    positions are hidden is drawn anew each step. Summed over the pairs.
    """

    by_rows: ClassVar[bool] = True
    maps_only: ClassVar[bool] = True
    paper: ClassVar[str] = "Yang et al., 2022, Masked Generative Distillation"
    definition: ClassVar[str] = (
        "alpha * sum_pairs sum (G(M * W Fs) - Ft)^2 / B, M = 0 at a share `mask` of positions"
    )

    kind: Literal["mgd"] = "mgd"
    alpha: PositiveFloat = Field(2e-5, description="factor, for the squares are summed and not averaged")
    mask: Annotated[float, Field(ge=0, lt=1, description="share of the positions that are hidden")] = 0.65

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.mgd._torch import Generating

        widths = [(width(mine), width(theirs)) for mine, theirs in self.shapes(context)]
        return Generating(self, widths, context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, alpha=self.alpha)


def value(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None, *, alpha: float = 2e-5
) -> "Tensor":
    """Of lists of generated and true features, one a pair; mask: rows or tokens that count."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        square = (mine - theirs).square()
        if tokens is not None and square.ndim == 3:
            square = square[tokens]
        total = total + square.sum() / max(len(mine), 1)
    return alpha * total
