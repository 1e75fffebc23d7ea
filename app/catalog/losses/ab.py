"""On which side of zero each neuron is."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import matched

if TYPE_CHECKING:
    from torch import Tensor


class AB(FeatureLoss):
    """Match the activation boundaries: whether each neuron is active, with a margin, and not how much.

    Choose layers before their ReLU. A deeper pair counts twice the one before it. With `stage_epochs` the
    paper's first stage: boundaries alone first, then no more of them. A projector stands where the student is
    not as wide as its teacher.
    """

    by_rows: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    only_stage: ClassVar[bool] = True
    usual_weight: ClassVar[float | None] = 1
    paper: ClassVar[str] = "Heo et al., 2019, Knowledge Transfer via Distillation of Activation Boundaries"
    definition: ClassVar[str] = (
        "3/1000 sum_i 2^(i - n) / B * sum [(Fs + m)^2 where Fs > -m and Ft <= 0, "
        "(Fs - m)^2 where Fs <= m and Ft > 0], pair i of n"
    )

    kind: Literal["ab"] = "ab"
    margin: PositiveFloat = Field(1.0, description="how far beyond zero a neuron of the student must be")
    stage_epochs: NonNegativeInt = Field(
        0, description="first epochs that train this term alone, which then is over; 0: it counts throughout"
    )

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, margin=self.margin)


def value(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None, *, margin: float = 1.0
) -> "Tensor":
    """Of lists of features of equal widths, one a pair, the deepest last."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for place, (mine, theirs) in enumerate(zip(student, teacher, strict=True), start=1):
        over = (mine + margin).square() * ((mine > -margin) & (theirs <= 0))
        under = (mine - margin).square() * ((mine <= margin) & (theirs > 0))
        wrong = over + under
        if tokens is not None and wrong.ndim == 3:
            wrong = wrong[tokens]
        total = total + 2.0 ** (place - len(student)) * wrong.sum() / max(len(mine), 1)
    return total * 3 / 1000
