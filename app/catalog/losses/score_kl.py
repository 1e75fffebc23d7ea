"""A ranker's scores as a distribution over the candidates."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.divergences import Divergence, kl
from app.catalog.scores import over_scores

if TYPE_CHECKING:
    from torch import Tensor


class ScoreKL(Divergence):
    """Match how likely each candidate is among a query's: T^2 * KL(teacher ; student) of softmaxed scores.

    Scores (B queries, N candidates), in any order, the same for both.
    """

    lumps: ClassVar[bool] = False  # candidates are no classes: every query has its own
    paper: ClassVar[str] = (
        "Lin, Yang and Lin, 2020, Distilling Dense Representations for Ranking using Tightly-Coupled Teachers"
    )
    definition: ClassVar[str] = "T^2 * mean_b KL(p ; q), p and q the softmax over a query's N candidates"

    kind: Literal["score_kl"] = "score_kl"

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        return kl(log_p, log_q)


value = over_scores(ScoreKL)
