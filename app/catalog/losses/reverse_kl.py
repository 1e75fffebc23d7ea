"""The KL of the student's side."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.base import over_logits
from app.catalog.divergences import Divergence, kl

if TYPE_CHECKING:
    from torch import Tensor


class ReverseKL(Divergence):
    """Be nowhere that the teacher is not: T^2 * KL(student ; teacher).

    It seeks the teacher's largest modes, where kd covers all of them. Logits (B, C), or (B, T, C) of tokens.
    """

    paper: ClassVar[str] = "Gu et al., 2023, MiniLLM: Knowledge Distillation of Large Language Models"
    definition: ClassVar[str] = "T^2 * mean_b KL(q ; p)"

    kind: Literal["reverse_kl"] = "reverse_kl"

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        return kl(log_q, log_p)


value = over_logits(ReverseKL)
