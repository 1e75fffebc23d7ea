"""Hints from the middle of the teacher."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import mean_squares

if TYPE_CHECKING:
    from torch import Tensor


class FitNet(FeatureLoss):
    """Match the teacher's features themselves, through a regressor where the student is not as wide.

    The larger map is average-pooled. Weight 100 in the CIFAR recipe. With `stage_epochs` the paper's two
    stages: hints alone first, then no hints. Summed over the pairs.
    """

    projects: ClassVar[bool] = True
    only_stage: ClassVar[bool] = True
    across_families: ClassVar[str] = (
        "64.1 against 64.6 without a teacher for vgg13 to MobileNetV2, CIFAR-100, RepDistiller's table"
    )
    usual_weight: ClassVar[float | None] = 100
    paper: ClassVar[str] = "Romero et al., 2015, FitNets: Hints for Thin Deep Nets"
    definition: ClassVar[str] = "sum_pairs mean (W Fs - Ft)^2"

    kind: Literal["fitnet"] = "fitnet"
    stage_epochs: NonNegativeInt = Field(
        0, description="first epochs that train this term alone, which then is over; 0: it counts throughout"
    )

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of features of equal widths, one a pair."""
    return mean_squares(student, teacher, mask)
