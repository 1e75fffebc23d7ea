"""Soft labels, weighed by what the student has still to learn."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat

from app.catalog.base import Batch, Loss, Outputs, Scheduled, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class WSLD(Loss):
    """Weigh the rows' soft cross-entropy by 1 - exp(-CE_student / CE_teacher): T^2 * mean_b w_b * CE(p, q).

    Both CE in the weight are those of the label at temperature 1, without a gradient: a row counts little
    where the student already fits its label better than the teacher does. An unlabeled row takes the
    teacher's choice as its label. The authors add it to cross_entropy with weight 2.5.
    """

    paper: ClassVar[str] = (
        "Zhou et al., 2021, Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff "
        "Perspective"
    )
    definition: ClassVar[str] = "T^2 * mean_b w_b * sum -p log q, w_b = 1 - exp(-CE_s / CE_t) detached"

    kind: Literal["wsld"] = "wsld"
    temperature: Scheduled[PositiveFloat] = Field(
        2.0, description="softens both sides; the value is multiplied by its square"
    )

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        target = batch.targets(teacher.logits)
        p = (teacher.logits / self.temperature).softmax(-1)
        log_q = (student.logits / self.temperature).log_softmax(-1)
        weights = _weights(student.logits.detach(), teacher.logits, target)
        return (weights * -(p * log_q).sum(-1)).mean() * self.temperature**2


def _weights(student: "Tensor", teacher: "Tensor", target: "Tensor") -> "Tensor":
    """w (rows,). A teacher that is sure of the label has no CE to divide by, hence the authors' 1e-7."""
    chosen = target.unsqueeze(-1)
    ce_student, ce_teacher = (-z.log_softmax(-1).gather(-1, chosen).squeeze(-1) for z in (student, teacher))
    return -(-ce_student / (ce_teacher + 1e-7)).expm1()


value = over_logits(WSLD)
