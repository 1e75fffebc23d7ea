"""Where each channel of a dense prediction is active."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import matched, positions, spread

if TYPE_CHECKING:
    from torch import Tensor


class CWD(FeatureLoss):
    """Match each channel's softmax over its positions: tau^2 * KL, for dense prediction.

    A projector stands where the student is not as wide as its teacher. Summed over the pairs.
    """

    by_rows: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    paper: ClassVar[str] = "Shu et al., 2021, Channel-wise Knowledge Distillation for Dense Prediction"
    definition: ClassVar[str] = (
        "sum_pairs tau^2 * mean_bc KL(p_bc ; q_bc), p_bc = softmax over positions of Ft_bc / tau, "
        "q_bc of Fs_bc / tau"
    )

    kind: Literal["cwd"] = "cwd"
    tau: PositiveFloat = Field(1.0, description="temperature; the value is multiplied by its square")

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, tau=self.tau)


def value(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None, *, tau: float = 1.0
) -> "Tensor":
    """Of lists of maps (B, c, h, w) or tokens (B, T, D), one a pair."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        spread("cwd", *pair)
        hidden = None if tokens is None or pair[0].ndim != 3 else ~tokens[:, None, :]
        log_q, log_p = (_log_share(positions(one) / tau, hidden) for one in pair)
        difference = log_p - log_q if hidden is None else (log_p - log_q).masked_fill(hidden, 0.0)
        channels = (log_p.exp() * difference).sum(-1)  # (B, c)
        total = total + (channels.mean() if channels.numel() else channels.sum()) * tau**2
    return total


def _log_share(scores: "Tensor", hidden: "Tensor | None") -> "Tensor":
    """log softmax over positions, (B, c, n)."""
    return (scores if hidden is None else scores.masked_fill(hidden, float("-inf"))).log_softmax(-1)
