"""Logit regression."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Batch, Loss, Outputs, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class LogitMSE(Loss):
    """Match the teacher's logits themselves: the mean squared difference over rows and classes.

    Where the one logit is a number, nothing is centered.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"class", "number"})
    paper: ClassVar[str] = "Ba and Caruana, 2014, Do Deep Nets Really Need to be Deep?"
    definition: ClassVar[str] = "mean_(b,c) (zs - zt)^2; each row of zs - zt less its mean with `center`"

    kind: Literal["logit_mse"] = "logit_mse"
    center: bool = Field(
        True,
        description="subtract each row's mean first: a constant added to all logits changes no probability",
    )

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        difference = student.logits - teacher.logits
        if self.center and difference.shape[-1] > 1:
            difference = difference - difference.mean(-1, keepdim=True)
        return difference.square().mean()


value = over_logits(LogitMSE)
