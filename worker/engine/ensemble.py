"""How several teachers become one."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Combine = Callable[[Tensor, float], Tensor]


def combination(
    rule: Literal["mean_probabilities", "mean_logits"] | None, weights: Sequence[float], device: torch.device
) -> Combine:
    """How the answers (B, K, C) of K teachers become one target (B, C) for a loss with temperature T (1:
    without).

    mean_probabilities: T * log sum_k w_k softmax(z_k / T); softened by T it is the mean of the softened
    teachers.
    mean_logits: sum_k w_k z_k. The weights are divided by their sum.
    """
    if len(weights) == 1:
        return lambda answers, _: answers[:, 0]
    total = math.fsum(weights)
    shares = torch.tensor([weight / total for weight in weights], device=device).unsqueeze(-1)

    def mean_logits(answers: Tensor, _: float) -> Tensor:
        return (answers * shares).sum(1)

    def mean_probabilities(answers: Tensor, temperature: float) -> Tensor:
        log_p = (answers / temperature).log_softmax(-1) + shares.log()
        return temperature * log_p.logsumexp(1)

    return mean_logits if rule == "mean_logits" else mean_probabilities
