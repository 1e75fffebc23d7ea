"""A ranker's margins instead of its scores."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import Batch, Loss, Outputs
from app.catalog.scores import over_scores

if TYPE_CHECKING:
    from torch import Tensor


class MarginMSE(Loss):
    """Match by how much the positive candidate outscores each other one: mean squared difference of margins.

    Scores (B queries, N candidates), the positive first: N - 1 margins a query. The student is free in the
    range of its scores; only their differences count.
    """

    paper: ClassVar[str] = (
        "Hofstaetter et al., 2020, Improving Efficient Neural Ranking Models with Cross-Architecture "
        "Knowledge Distillation"
    )
    definition: ClassVar[str] = "mean_(b,n>0) ((zs_b0 - zs_bn) - (zt_b0 - zt_bn))^2"

    kind: Literal["margin_mse"] = "margin_mse"

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        difference = student.logits - teacher.logits
        margins = difference[..., :1] - difference[..., 1:]
        return margins.square().sum() / max(margins.numel(), 1)


value = over_scores(MarginMSE)
