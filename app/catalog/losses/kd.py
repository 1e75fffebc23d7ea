"""Soft targets, the loss that began it all."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat

from app.catalog.base import Batch, Loss, Outputs, Scheduled, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class KD(Loss):
    """Match the teacher's softened class probabilities: T^2 * KL(teacher ; student).

    `standardize` gives every row of logits zero mean and unit deviation first, so that the student need not
    copy the teacher's scale (Sun et al., 2024, logit standardization); the paper pairs it with temperature 2
    and weight 9.
    """

    paper: ClassVar[str] = "Hinton, Vinyals and Dean, 2015, Distilling the Knowledge in a Neural Network"
    definition: ClassVar[str] = (
        "T^2 * mean_b KL(p ; q); with `standardize` of logits (z - mean z) / (std z + 1e-7), unbiased std"
    )

    kind: Literal["kd"] = "kd"
    temperature: Scheduled[PositiveFloat] = Field(
        4.0, description="softens both sides; the value is multiplied by its square"
    )
    standardize: bool = Field(False, description="standardize each row of logits before the temperature")

    @property
    def lumps(self) -> bool:  # type: ignore[override]
        """A lumped class would count once in a row's mean and deviation."""
        return not self.standardize

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        zs, zt = (_standardized(z) if self.standardize else z for z in (student.logits, teacher.logits))
        log_q = (zs / self.temperature).log_softmax(-1)
        log_p = (zt / self.temperature).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * self.temperature**2


def _standardized(logits: "Tensor") -> "Tensor":
    """(z - mean) / (std + 1e-7) along the classes, with the unbiased deviation as in the authors' code."""
    centered = logits - logits.mean(-1, keepdim=True)
    variance = centered.square().sum(-1, keepdim=True) / max(logits.shape[-1] - 1, 1)
    tiny = variance.new_tensor(1e-30)  # the root of a constant row's zero would have an infinite gradient
    return centered / (variance.maximum(tiny).sqrt() + 1e-7)


value = over_logits(KD)
