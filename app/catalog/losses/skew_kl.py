"""A KL whose gradient stays calm."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import over_logits
from app.catalog.divergences import Divergence, kl_to_mixture

if TYPE_CHECKING:
    from torch import Tensor


class SkewKL(Divergence):
    """Lend the student a share of the teacher: T^2 * KL(teacher ; alpha * teacher + (1 - alpha) * student).

    Where the student gives a class nothing the KL is then at most -log(alpha). `reverse` changes the roles:
    the student's KL to a mixture that is mostly the teacher. Logits (B, C), or (B, T, C) of tokens.
    """

    paper: ClassVar[str] = (
        "Ko et al., 2024, DistiLLM: Towards Streamlined Distillation for Large Language Models"
    )
    definition: ClassVar[str] = (
        "T^2 * mean_b KL(p ; alpha * p + (1 - alpha) * q); p and q swapped with `reverse`"
    )

    kind: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[
        float, Field(ge=0, lt=1, description="the teacher's share of the mixture; 0 is the KL")
    ] = 0.1
    reverse: bool = Field(False, description="KL(student ; alpha * student + (1 - alpha) * teacher) instead")

    def rows(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        if self.reverse:
            log_p, log_q = log_q, log_p
        return (1 - self.alpha) * kl_to_mixture(log_p, log_q, 1 - self.alpha)


value = over_logits(SkewKL)
