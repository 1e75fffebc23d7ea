"""The student's picture of a row lies near its teacher's of the same row and far from those of others."""

from collections.abc import Callable
from math import log
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import RepresentationLoss
from app.catalog.layer_tensors import counted, same_width, unit, vectors

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-7


class CRD(RepresentationLoss):
    """Tell each row's own picture on the other side from those of other training rows.

    By noise-contrastive estimation. Both sides are embedded by learned linear layers; memory banks keep one
    embedding of every training row and side, and negatives are drawn from them. Weight 0.8 in the recipe.
    """

    usual_weight: ClassVar[float | None] = 0.8
    remembers: ClassVar[bool] = True
    paper: ClassVar[str] = "Tian, Krishnan and Isola, 2020, Contrastive Representation Distillation"
    definition: ClassVar[str] = (
        "-mean_b [log h(b, b) + sum_k log(1 - h(b, k))] for each side as anchor, h(b, j) = e / (e + K/n), "
        "e = exp(s_b t_j / temperature) / Z, K negatives of n rows"
    )

    kind: Literal["crd"] = "crd"
    embed: Annotated[int, Field(ge=1, le=4096, description="width of the embeddings")] = 128
    negatives: Annotated[
        int, Field(ge=1, le=1_000_000, description="other rows that a row is told from, at most all of them")
    ] = 16_384
    temperature: Annotated[float, Field(ge=0.02, le=100, description="sharpens the similarities")] = 0.07
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="share of the old embedding that a bank keeps")
    ] = 0.5

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        from app.catalog.losses.crd._torch import Contrast

        return Contrast(self, self.widths(context), rows=context.rows, seed=context.seed)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, temperature=self.temperature)


def value(
    student: "list[Tensor]",
    teacher: "list[Tensor]",
    mask: "Tensor | None" = None,
    *,
    temperature: float = 0.07,
) -> "Tensor":
    """Of lists of embedded rows (B, D), without banks: the negatives are the other rows of the batch."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        same_width(*pair)
        mine, theirs = (unit(vectors(one, tokens)) for one in pair)
        if len(mine):
            scores = mine @ theirs.T / temperature
            scores = scores - log_normalizer(scores, len(mine))
            total = total + sum(noise_contrast(_own_first(side), len(mine)) for side in (scores, scores.T))
    return total


def _own_first(scores: "Tensor") -> "Tensor":
    """(B, B) with each row turned until its diagonal element stands first."""
    order = scores.new_ones(len(scores)).cumsum(0).long() - 1
    return scores.gather(1, (order[:, None] + order) % len(scores))


def log_normalizer(scores: "Tensor", rows: int) -> "Tensor":
    """log Z that makes the mean of exp(scores) / Z one of `rows`; a constant of the first batch."""
    flat = scores.detach().flatten()
    return flat.logsumexp(0) + log(rows / len(flat))


def noise_contrast(scores: "Tensor", rows: int) -> "Tensor":
    """scores: log e, (B, 1 + K), first each row's own, then its negatives, drawn from `rows` rows alike."""
    noise = (scores.shape[1] - 1) / rows
    log_whole = (scores.exp() + noise + EPS).log()
    own = scores[:, 0] - log_whole[:, 0]
    others = log(noise) - log_whole[:, 1:] if noise else log_whole[:, 1:]
    return -(own.sum() + others.sum()) / len(scores)
