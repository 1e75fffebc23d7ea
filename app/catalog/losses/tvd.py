"""The largest difference that any set of classes shows."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat

from app.catalog.base import Batch, Outputs, Scheduled, over_logits
from app.catalog.divergences import Divergence

if TYPE_CHECKING:
    from torch import Tensor


class TVD(Divergence):
    """The total variation distance: half the sum of absolute differences of probability, between 0 and 1.

    Logits (B, C), or (B, T, C) of tokens.
    """

    paper: ClassVar[str] = (
        "Wen et al., 2023, f-Divergence Minimization for Sequence-Level Knowledge Distillation"
    )
    definition: ClassVar[str] = "mean_b 1/2 * sum abs(p - q), without T^2"

    kind: Literal["tvd"] = "tvd"
    temperature: Scheduled[PositiveFloat] = Field(
        1.0, description="softens both sides; the value is not multiplied by its square"
    )

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        return self.mean(student, teacher)

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


value = over_logits(TVD)
