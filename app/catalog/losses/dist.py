"""Distillation from a stronger teacher, by correlation instead of exact match."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from app.catalog.base import Batch, Loss, Outputs, Scheduled, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class DIST(Loss):
    """Match how classes relate within a row (beta) and rows within a class (gamma), by Pearson's correlation.

    T^2 * (beta * (1 - mean_b pearson(q_b, p_b)) + gamma * (1 - mean_c pearson(q_c, p_c))).
    """

    batch_statistic: ClassVar[bool] = True
    paper: ClassVar[str] = "Huang et al., 2022, Knowledge Distillation from A Stronger Teacher"
    definition: ClassVar[str] = (
        "T^2 * (beta * (1 - mean_b pearson(q_b, p_b)) + gamma * (1 - mean_c pearson(q_c, p_c)))"
    )

    kind: Literal["dist"] = "dist"
    temperature: Scheduled[PositiveFloat] = Field(
        1.0, description="softens both sides; the value is multiplied by its square"
    )
    beta: NonNegativeFloat = Field(1.0, description="share of the relations within a row")
    gamma: NonNegativeFloat = Field(1.0, description="share of the relations within a class")

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        q = (student.logits / self.temperature).softmax(-1).flatten(0, -2)
        p = (teacher.logits / self.temperature).softmax(-1).flatten(0, -2)
        within_rows = 1 - pearson(q, p).mean()
        within_classes = 1 - pearson(q.T, p.T).mean()
        return (self.beta * within_rows + self.gamma * within_classes) * self.temperature**2


def pearson(a: "Tensor", b: "Tensor") -> "Tensor":
    """Pearson's correlation of each row of a with the same row of b, (rows,); 0 where a row is constant."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    tiny = a.new_tensor(1e-16)  # the root of a constant row's zero would have an infinite gradient
    norms = a.square().sum(-1).maximum(tiny).sqrt() * b.square().sum(-1).maximum(tiny).sqrt()
    return (a * b).sum(-1) / (norms + 1e-8)


value = over_logits(DIST)
