"""Decoupled knowledge distillation."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from app.catalog.base import Batch, Loss, Outputs, Scheduled, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class DKD(Loss):
    """Weigh target and non-target knowledge apart: T^2 * (alpha * TCKD + beta * NCKD).

    TCKD is the KL between (p_y, 1 - p_y) of teacher and student, NCKD the KL over the other classes,
    renormalized; kd is TCKD + (1 - p_y) * NCKD. An unlabeled row takes the teacher's choice as its target.
    """

    paper: ClassVar[str] = "Zhao et al., 2022, Decoupled Knowledge Distillation"
    definition: ClassVar[str] = (
        "T^2 * mean_b (alpha * KL((p_y, 1 - p_y) ; (q_y, 1 - q_y)) + beta * KL(p' ; q')), "
        "p' and q' over the classes but y"
    )

    kind: Literal["dkd"] = "dkd"
    temperature: Scheduled[PositiveFloat] = Field(
        4.0, description="softens both sides; the value is multiplied by its square"
    )
    alpha: NonNegativeFloat = Field(1.0, description="share of the target class' term")
    beta: NonNegativeFloat = Field(8.0, description="share of the other classes' term")

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        target = batch.targets(teacher.logits)
        target_q, rest_q, others_q = _decoupled(student.logits / self.temperature, target)
        target_p, rest_p, others_p = _decoupled(teacher.logits / self.temperature, target)
        tckd = target_p.exp() * (target_p - target_q) + rest_p.exp() * (rest_p - rest_q)
        nckd = (others_p.exp() * (others_p - others_q)).sum(-1)
        return (self.alpha * tckd + self.beta * nckd).mean() * self.temperature**2


def _decoupled(logits: "Tensor", target: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """log p_y (rows), log(1 - p_y) (rows), log probabilities of the others among themselves (rows, C - 1)."""
    classes = logits.shape[-1]
    chosen = target.unsqueeze(-1)
    column = chosen.new_ones(classes - 1).cumsum(0) - 1
    others = logits.gather(-1, column + (column >= chosen))  # every class but the target, in order
    total = logits.logsumexp(-1)
    others_total = others.logsumexp(-1)
    return (
        logits.gather(-1, chosen).squeeze(-1) - total,
        others_total - total,
        others - others_total.unsqueeze(-1),
    )


value = over_logits(DKD)
