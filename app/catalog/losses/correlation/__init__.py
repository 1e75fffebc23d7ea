"""How two neighbors in a batch differ from their teacher's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import RepresentationLoss
from app.catalog.layer_tensors import counted, same_width, vectors

if TYPE_CHECKING:
    from torch import Tensor


class Correlation(RepresentationLoss):
    """Match each row and its neighbor in the batch at once, by the product of their absolute differences.

    Student and teacher are each embedded by a learned linear layer first. Weight 0.02 in the CIFAR recipe. It
    is 0 for a batch of one.
    """

    usual_weight: ClassVar[float | None] = 0.02
    paper: ClassVar[str] = "Peng et al., 2019, Correlation Congruence for Knowledge Distillation"
    definition: ClassVar[str] = "mean_b sum_d |es - et|_bd * |es - et|_(b+1)d, e = W F, embedded rows"

    kind: Literal["correlation"] = "correlation"
    embed: Annotated[int, Field(ge=1, le=4096, description="width of the embeddings")] = 128

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.correlation._torch import Embedded

        return Embedded(self, self.widths(context), context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of embedded rows (B, D)."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        same_width(*pair)
        total = total + congruence(*(vectors(one, tokens) for one in pair))
    return total


def congruence(student: "Tensor", teacher: "Tensor") -> "Tensor":
    """Of embedded rows (B, D), the teacher's learned too."""
    apart = (student - teacher).abs()
    found = (apart[:-1] * apart[1:]).sum(1)
    return found.mean() if len(found) else apart.sum() * 0
