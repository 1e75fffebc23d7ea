"""The weighted sum of the loss terms: what it is in an epoch, and what it says when it is read or breaks."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Loss, Outputs
from app.errors import NumericDivergence
from worker.engine.device import Device

Term = Callable[[Outputs, Outputs, Batch], Tensor]


class Objective:
    """Terms keep their kind as name; a kind that comes again gets a number (`kd`, `kd_2`)."""

    def __init__(self, forms: Sequence[Loss], context: Context, device: Device) -> None:
        self._forms = forms
        self._device = device.on
        self._built = [form.build(context) for form in forms]
        for term in self._built:
            if isinstance(term, nn.Module):
                term.to(device.on)
        kinds = [form.kind for form in forms]
        self.names = [
            kind if kind not in kinds[:i] else f"{kind}_{kinds[:i].count(kind) + 1}"
            for i, kind in enumerate(kinds)
        ]

    def parameters(self) -> list[Tensor]:
        """What the terms themselves learn; it is trained with the student and never leaves with it."""
        return [
            parameter
            for term in self._built
            if isinstance(term, nn.Module)
            for parameter in term.parameters()
        ]

    def at(self, epoch: int) -> tuple[list[Term], list[float], Tensor]:
        """Terms, the temperature that each reads its teachers at (1: has none), and weights; schedules are
        numbers."""
        forms = [form.at(epoch) for form in self._forms]
        terms = [
            at if term is form else term
            for form, at, term in zip(self._forms, forms, self._built, strict=True)
        ]
        temperatures = [float(getattr(form, "temperature", 1.0)) for form in forms]
        return terms, temperatures, torch.tensor([float(form.weight) for form in forms], device=self._device)

    def reading(self, means: Tensor, weights: Tensor) -> dict[str, float]:
        """Each term's mean by name, without its weight, and the weighted sum as `loss`. Waits for the
        device."""
        return {"loss": float(means @ weights), **dict(zip(self.names, means.tolist(), strict=True))}

    def pulls(self, values: Tensor, weights: Tensor, logits: Tensor) -> dict[str, float]:
        """The norm of each weighted term's gradient at the student's logits; 0 where none reaches them."""
        found = [torch.autograd.grad(v, logits, retain_graph=True, allow_unused=True)[0] for v in values]
        norms = [0.0 if one is None else float(one.float().norm()) for one in found]
        return {name: norm * w for name, norm, w in zip(self.names, norms, weights.tolist(), strict=True)}

    def diverged(self, values: Tensor, step: int) -> NumericDivergence:
        named = zip(self.names, values.tolist(), strict=True)
        broken = [f"{name} = {value}" for name, value in named if not math.isfinite(value)]
        what = ", ".join(broken) or "the weighted sum of the losses"
        return NumericDivergence(
            f"At step {step} this loss was no finite number: {what}. The weights were not changed by it. "
            "Lower training.optimizer.lr, add training.schedule.warmup_steps, or set training.clip_norm."
        )
