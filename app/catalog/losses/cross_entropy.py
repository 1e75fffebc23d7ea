"""The ground truth's own term."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import UNLABELED, Batch, Loss, Outputs, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Loss):
    """Match the ground-truth labels. Rows without a label do not count."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target spread over all classes")
    ] = 0.0

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert batch.labels is not None
        labeled = batch.labels != UNLABELED
        log_q = student.logits.log_softmax(-1)
        target = log_q.gather(-1, batch.labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        rows = -(1 - self.label_smoothing) * target - self.label_smoothing * log_q.mean(-1)
        return (rows * labeled).sum() / labeled.sum().clamp(min=1)


value = over_logits(CrossEntropy)
