"""Losses of rankers: their logits are scores (B queries, N candidates)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.catalog.base import Loss, over_logits

if TYPE_CHECKING:
    from torch import Tensor


def over_scores(loss: type[Loss]) -> "Callable[..., Tensor]":
    """`over_logits`, of lists of one tensor (B, N), or of one (B,) a candidate as rankers score them."""
    of_tables = over_logits(loss)

    def table(scores: "list[Tensor]") -> "list[Tensor]":
        if len(scores) == 1:
            return scores
        import torch

        return [torch.stack(scores, -1)]

    def value(
        student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None, **parameters: Any
    ) -> "Tensor":
        return of_tables(table(student), table(teacher), mask, **parameters)

    value.__doc__ = loss.__doc__
    return value
