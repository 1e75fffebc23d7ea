"""The forward KL for the head of the distribution, the reverse one for its tail."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import over_logits
from app.catalog.divergences import Divergence, kl

if TYPE_CHECKING:
    from torch import Tensor


class AKL(Divergence):
    """Mix both KLs by where the student is wrong: T^2 * (h * KL(teacher ; student) + (1 - h) * the reverse).

    h is the share that the head has in sum |p - q|, without a gradient. The head is the teacher's likeliest
    class and those that follow it while their probabilities sum up to at most `mu`, as in the authors' code.
    Logits (B, C), or (B, T, C) of tokens.
    """

    lumps: ClassVar[bool] = False  # the lumped tail would rank by its whole mass and so get into the head
    paper: ClassVar[str] = (
        "Wu et al., 2024, Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large "
        "Language Models"
    )
    definition: ClassVar[str] = (
        "T^2 * mean_b (h * KL(p ; q) + (1 - h) * KL(q ; p)), h = sum_head abs(p - q) / sum abs(p - q)"
    )

    kind: Literal["akl"] = "akl"
    mu: Annotated[float, Field(ge=0, le=1, description="probability that the head's classes sum up to")] = 0.5

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        head = self._head(log_p.exp(), log_q.detach().exp())
        return head * kl(log_p, log_q) + (1 - head) * kl(log_q, log_p)

    def _head(self, p: "Tensor", q: "Tensor") -> "Tensor":
        """The head's share in the gap between p and q, a row; 0 where there is no gap."""
        ordered, order = p.sort(-1, descending=True)
        gap = (ordered - q.gather(-1, order)).abs()
        head = ordered.cumsum(-1) <= self.mu
        head[..., 0] = True
        return (gap * head).sum(-1) / gap.sum(-1).clamp(min=1e-30)


value = over_logits(AKL)
