"""Between the two KLs."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import over_logits
from app.catalog.divergences import Divergence, kl_to_mixture

if TYPE_CHECKING:
    from torch import Tensor


class JSD(Divergence):
    """The generalized Jensen-Shannon divergence: T^2 * (beta KL(teacher ; m) + (1 - beta) KL(student ; m)).

    m = beta * teacher + (1 - beta) * student. It vanishes at both ends of beta; `normalize` divides it by
    beta * (1 - beta), and then it goes over into kd at 0 and into reverse_kl at 1 without a jump.
    Logits (B, C), or (B, T, C) of tokens.
    """

    paper: ClassVar[str] = (
        "Agarwal et al., 2023, On-Policy Distillation of Language Models: Learning from Self-Generated "
        "Mistakes"
    )
    definition: ClassVar[str] = (
        "T^2 * mean_b (beta * KL(p ; m) + (1 - beta) * KL(q ; m)) / (beta * (1 - beta)), "
        "m = beta * p + (1 - beta) * q; not divided unless `normalize`"
    )

    kind: Literal["jsd"] = "jsd"
    beta: Annotated[float, Field(ge=0, le=1, description="the teacher's share of the mixture m")] = 0.5
    normalize: bool = Field(
        True, description="divide by beta * (1 - beta), so that both ends of beta are a KL and none is zero"
    )

    def counts(self) -> bool:
        return super().counts() and (self.normalize or 0 < self.beta < 1)

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        normalized = kl_to_mixture(log_p, log_q, 1 - self.beta) + kl_to_mixture(log_q, log_p, self.beta)
        return normalized if self.normalize else self.beta * (1 - self.beta) * normalized


value = over_logits(JSD)
