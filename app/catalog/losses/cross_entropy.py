"""The ground truth's own term."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.catalog.base import UNLABELED, Batch, Loss, Outputs, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Loss):
    """Match the ground-truth labels. Rows without a label do not count.

    A row that was mixed with another counts for both labels, each by its share; the divisor is the sum of all
    shares that have a label.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    definition: ClassVar[str] = "mean_b -log softmax(zs)_y over the labeled rows"

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target spread over all classes")
    ] = 0.0

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert batch.labels is not None
        log_q = student.logits.log_softmax(-1)
        total, counted = self._summed(log_q, batch.labels, 1 if batch.share is None else batch.share)
        if batch.others is not None:
            assert batch.share is not None
            more, rest = self._summed(log_q, batch.others, 1 - batch.share)
            total, counted = total + more, counted + rest
        return total / (counted + (counted == 0))

    def count(self, batch: Batch, rows: int) -> "Tensor | int":
        """Labeled rows, mixed ones by their shares."""
        batch = batch if batch.mask is None else batch.kept(batch.mask.bool())
        if batch.labels is None or batch.others is None or batch.share is None:
            return rows if batch.labels is None else (batch.labels != UNLABELED).sum()
        rest = (batch.others != UNLABELED) * (1 - batch.share)
        return ((batch.labels != UNLABELED) * batch.share + rest).sum()

    def _summed(self, log_q: "Tensor", labels: "Tensor", share: Any) -> "tuple[Tensor, Tensor]":
        """The sum over the labeled rows, each times its share, and the sum of these shares."""
        labeled = (labels != UNLABELED) * share
        target = log_q.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        rows = -(1 - self.label_smoothing) * target - self.label_smoothing * log_q.mean(-1)
        return (rows * labeled).sum(), labeled.sum()


value = over_logits(CrossEntropy)
