"""The weighted sum of the loss terms: what it is in an epoch, and what it says when it is read or breaks."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Loss, Outputs
from app.errors import NumericDivergence
from worker.engine.layer_paths import placed
from worker.engine.teaching import Heard

if TYPE_CHECKING:
    from worker.engine.inputs import Seen

Term = Callable[[Outputs, Outputs, Batch], Tensor]


@dataclass(frozen=True)
class Terms:
    """Those of the terms that count in an epoch, by their places, with schedules made numbers."""

    places: list[int]
    forms: list[Loss]
    built: list[Term]
    weights: Tensor  # (terms,)


class Objective(nn.Module):
    """Terms keep their kind as name; a kind that comes again gets a number (`kd`, `kd_2`).

    As a module it holds what the terms themselves learn, which is trained with the student, belongs to its
    checkpoints and never leaves with it.
    """

    def __init__(self, forms: Sequence[Loss], contexts: Sequence[Context], device: torch.device) -> None:
        """contexts: one a form. Raises ShapeMismatch, pointing at the loss."""
        super().__init__()
        self._forms, self._device = list(forms), device
        self.computing: int | None = None  # the place of the term whose loss is being computed
        self._built = [
            placed(f"/losses/{place}", partial(form.build, context))
            for place, (form, context) in enumerate(zip(forms, contexts, strict=True))
        ]
        kinds = [form.kind for form in forms]
        self.names = [
            kind if kind not in kinds[:i] else f"{kind}_{kinds[:i].count(kind) + 1}"
            for i, kind in enumerate(kinds)
        ]
        for name, term in zip(self.names, self._built, strict=True):
            if isinstance(term, nn.Module):
                self.add_module(name, term)
        self.to(device)

    def at(self, epoch: int, places: Iterable[int]) -> Terms:
        """The terms at these places, as they are in this epoch."""
        there = list(places)
        forms = [self._forms[place].at(epoch) for place in there]
        built = [
            form if self._built[place] is self._forms[place] else self._built[place]
            for place, form in zip(there, forms, strict=True)
        ]
        for term in built:
            if hasattr(term, "at_epoch"):
                term.at_epoch(epoch)
        weights = torch.tensor([float(form.weight) for form in forms], device=self._device)
        return Terms(there, forms, built, weights)

    def shares(self, terms: Terms, part: "Seen", whole: "Seen") -> Tensor | None:
        """How much of each term's mean over the whole batch a part of it is, (terms,); None: all of it."""
        if len(part) == len(whole):
            return None
        found = [
            form.count(part.batch, len(part)) / max(form.count(whole.batch, len(whole)), 1e-9)
            for form in terms.forms
        ]
        return torch.stack([torch.as_tensor(one, device=self._device) for one in found])

    def values(self, terms: Terms, student: Outputs, heard: Heard, batch: Batch) -> Tensor:
        """Each term's loss of the batch, (terms,), without its weight."""
        values = []
        for place, form, built in zip(terms.places, terms.forms, terms.built, strict=True):
            self.computing = place
            pairs = heard.pairs(form, student)
            values.append(_sum([(share, built(own, other, batch)) for share, own, other in pairs]))
        self.computing = None
        return torch.stack(values)

    def reading(self, terms: Terms, means: Tensor) -> dict[str, float]:
        """Each term's mean by name, without its weight, and the weighted sum as `loss`. Waits for the
        device."""
        names = [self.names[place] for place in terms.places]
        return {"loss": float(means @ terms.weights), **dict(zip(names, means.tolist(), strict=True))}

    def pulls(self, terms: Terms, values: Tensor, learned: Sequence[Tensor]) -> dict[str, float]:
        """The norm of each weighted term's gradient at the student's weights; 0 where none reaches them."""
        found = {}
        for place, value, weight in zip(terms.places, values, terms.weights.tolist(), strict=True):
            grads = torch.autograd.grad(value, learned, retain_graph=True, allow_unused=True)
            norms = [one.float().norm() for one in grads if one is not None]
            found[self.names[place]] = weight * float(torch.stack(norms).norm()) if norms else 0.0
        return found

    def diverged(self, terms: Terms, values: Tensor, step: int) -> NumericDivergence:
        named = zip((self.names[place] for place in terms.places), values.tolist(), strict=True)
        broken = [f"{name} = {value}" for name, value in named if not math.isfinite(value)]
        what = ", ".join(broken) or "the weighted sum of the losses"
        return NumericDivergence(
            f"At step {step} this loss was no finite number: {what}. The weights were not changed by it. "
            "Lower training.optimizer.lr, add training.schedule.warmup_steps, or set training.clip_norm."
        )


def _sum(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Of a lone part its value itself, to the last bit."""
    total = parts[0][1] if parts[0][0] == 1.0 else parts[0][0] * parts[0][1]
    for share, value in parts[1:]:
        total = total + share * value
    return total
