"""A teacher's ranking instead of its scores."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Batch, Loss, Outputs
from app.catalog.scores import over_scores

if TYPE_CHECKING:
    from torch import Tensor


class Ranking(Loss):
    """Match the order of the teacher's best candidates, and have each of them outscore the rest.

    The likelihood of drawing the best in the teacher's order, each in proportion to exp(score) among those
    that are left. Where the rest is larger than `uninteresting` it is taken evenly over the teacher's
    ranking, which is a draw that repeats. Scores (B queries, N candidates) or logits; 0 only in the limit.
    """

    paper: ClassVar[str] = (
        "Kang et al., 2020, DE-RRD: A Knowledge Distillation Framework for Recommender System"
    )
    definition: ClassVar[str] = (
        "mean_b sum_k -(s_k - log(sum_(j >= k) exp(s_j) + sum_u exp(s_u))), k and j over the interesting "
        "candidates as the teacher ranks them, u over the uninteresting ones"
    )

    kind: Literal["ranking"] = "ranking"
    interesting: Annotated[
        int, Field(ge=1, le=1000, description="best candidates whose order counts, at most all of them")
    ] = 10
    uninteresting: Annotated[
        int, Field(ge=0, le=100_000, description="of the rest, which only stay below; at most all of it")
    ] = 40

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        assert student.logits is not None
        assert teacher.logits is not None
        order = teacher.logits.argsort(dim=-1, descending=True, stable=True)
        count = min(self.interesting, order.shape[-1])
        places = list(range(count)) + self._spread(count, order.shape[-1])
        scores = student.logits.gather(-1, order[..., places])
        left = scores.flip(-1).logcumsumexp(-1).flip(-1)
        return (left - scores)[..., :count].sum(-1).mean()

    def _spread(self, first: int, end: int) -> list[int]:
        """Places of a ranking from `first` on, one of each of as many equal parts as are wanted."""
        there = end - first
        wanted = min(self.uninteresting, there)
        return [first + (2 * part + 1) * there // (2 * wanted) for part in range(wanted)]


value = over_scores(Ranking)
