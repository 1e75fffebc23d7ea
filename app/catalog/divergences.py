"""How far two softened distributions over the classes lie apart, in log space and one number a row.

Shapes: log probabilities (..., C), of the teacher `log_p` and of the student `log_q`.
"""

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from app.catalog.base import Batch, Loss, Outputs, Scheduled

if TYPE_CHECKING:
    from torch import Tensor

STEEP = 60.0  # from this ratio of log probabilities on a sum is taken in log space: exp would overflow


class Divergence(Loss):
    """T^2 times the mean over rows, or tokens, of `rows`: what a divergence writes."""

    lumps: ClassVar[bool] = True

    temperature: Scheduled[PositiveFloat] = Field(
        1.0, description="softens both sides; the value is multiplied by its square"
    )

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        return self.mean(student, teacher) * self.temperature**2

    def mean(self, student: Outputs, teacher: Outputs) -> "Tensor":
        """The mean over rows or tokens, without the square of the temperature."""
        assert student.logits is not None
        assert teacher.logits is not None
        log_p = (teacher.logits / self.temperature).log_softmax(-1)
        log_q = (student.logits / self.temperature).log_softmax(-1)
        return self.rows(log_p, log_q).mean()

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """The divergence of each row, (...)."""
        raise NotImplementedError


def kl(log_a: "Tensor", log_b: "Tensor") -> "Tensor":
    """KL(a ; b) = sum a (log a - log b)."""
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def kl_to_mixture(log_a: "Tensor", log_b: "Tensor", share: float) -> "Tensor":
    """KL(a ; (1 - share) a + share b) / share: KL(a ; b) at share 1, and exact on the way down to 0 at 0."""
    if share == 0:
        return (log_a * 0).sum(-1)
    if share == 1:
        return kl(log_a, log_b)
    ratio = log_b - log_a
    near = (share * ratio.clamp(max=STEEP).expm1()).log1p()
    far = (ratio + math.log(share)).logaddexp(ratio.new_tensor(math.log1p(-share)))
    return (log_a.exp() * near.where(ratio < STEEP, far)).sum(-1) / -share
