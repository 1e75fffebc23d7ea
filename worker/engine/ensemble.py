"""How several teachers become one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from app.catalog.spec import EnsembleRule


class Ensemble:
    """K teachers with a rule and shares, which are the weights divided by their sum.

    mean_probabilities: T * log sum_k w_k softmax(z_k / T); softened by T it is the mean of the softened
    teachers.
    mean_logits: sum_k w_k z_k.
    each: every teacher on its own, by its share. random: one of them for a batch, by its share, a pure
    function of (seed, step).
    """

    def __init__(self, rule: EnsembleRule | None, weights: Sequence[float], seed: int = 0) -> None:
        total = math.fsum(weights)
        self.rule, self.shares, self.weight = rule, [weight / total for weight in weights], total
        self._seed = seed

    def targets(self, answers: Tensor, temperature: float, step: int) -> list[tuple[float, Tensor]]:
        """Of the answers (B, K, C), what a loss with this temperature (1: without) learns from: shares and
        logits (B, C)."""
        if len(self.shares) > 1 and self.rule == "each":
            return [(share, answers[:, place]) for place, share in enumerate(self.shares)]
        if len(self.shares) > 1 and self.rule == "random":
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
            chosen = int(torch.multinomial(torch.tensor(self.shares), 1, generator=generator))
            return [(1.0, answers[:, chosen])]
        return [(1.0, self.mean(answers, temperature))]

    def mean(self, answers: Tensor, temperature: float = 1.0) -> Tensor:
        """One answer for all, (B, C): what stands for the teachers where one answer is compared."""
        if len(self.shares) == 1:
            return answers[:, 0]
        shares = answers.new_tensor(self.shares).unsqueeze(-1)
        if self.rule == "mean_logits" or answers.shape[-1] == 1:  # one logit is a number and has no softmax
            return (answers * shares).sum(1)
        log_p = (answers / temperature).log_softmax(-1) + shares.log()
        return temperature * log_p.logsumexp(1)
