"""The ground truth's own term where answers are numbers."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import Batch, Loss, Outputs, over_logits

if TYPE_CHECKING:
    from torch import Tensor


class TaskLoss(Loss):
    """Match the labels of a task that has no classes: the mean squared difference over the rows that have
    one.

    It is taken in units of the target's standard deviation, so a student that always answers the mean has 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    answers: ClassVar[frozenset[str]] = frozenset({"number"})
    definition: ClassVar[str] = "mean_b (z_s - y)^2"

    kind: Literal["task"] = "task"

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert batch.labels is not None
        wanted = batch.labels.to(student.logits.dtype)
        labeled = ~wanted.isnan()
        rows = (student.logits.squeeze(-1) - wanted.nan_to_num()).square()
        return (rows * labeled).sum() / labeled.sum().clamp(min=1)

    def count(self, batch: Batch, rows: int) -> "Tensor | int":
        """Labeled rows."""
        batch = batch if batch.mask is None else batch.kept(batch.mask.bool())
        return rows if batch.labels is None else (~batch.labels.isnan()).sum()


value = over_logits(TaskLoss)
