"""What the teachers say to a batch: stored answers, or the teachers themselves where something is drawn anew
or a loss looks into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from app.catalog.base import Loss, Outputs
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Seen

if TYPE_CHECKING:
    from worker.engine.device import Rows
    from worker.engine.teachers import Live


@dataclass(frozen=True)
class Teaching:
    """stored: raw logits (N, K, C) of all K teachers in the job's order of labels; None: those at hand are
    asked.

    live: the teachers at hand, by their place.
    """

    ensemble: Ensemble
    stored: "Rows | None"
    live: "Mapping[int, Live]" = field(default_factory=dict)

    def hear(self, seen: Seen, step: int) -> "Heard":
        shown = {place: teacher(seen.teachers[place]) for place, teacher in self.live.items()}
        answers = None
        if self.stored is not None:
            answers = self.stored[seen.positions]
        elif shown:
            answers = torch.stack([shown[place].logits for place in sorted(shown)], 1)  # type: ignore[misc]
        return Heard(self.ensemble, answers, shown, step)


@dataclass(frozen=True)
class Heard:
    """answers: (B, K, C). shown: what the teachers at hand show of themselves, by their place."""

    ensemble: Ensemble
    answers: Tensor | None
    shown: Mapping[int, Outputs]
    step: int

    @classmethod
    def nothing(cls, step: int) -> "Heard":
        """What a control hears."""
        return cls(Ensemble(None, [1.0]), None, {}, step)

    def beside(self, others: Tensor) -> "Heard":
        """The same with more teachers, (B, E, C): students that learn at the same time."""
        answers = others if self.answers is None else torch.cat([self.answers, others.to(self.answers)], 1)
        return replace(self, answers=answers)

    def pairs(self, form: Loss, student: Outputs) -> Sequence[tuple[float, Outputs, Outputs]]:
        """What a term compares, and the share of each comparison: student with teacher. form: of this
        epoch."""
        if form.needs & {"features", "attentions", "values"}:
            return [(1.0, student, self.shown[getattr(form, "teacher", 0)])]
        if self.answers is None:
            return [(1.0, student, Outputs())]
        temperature = float(getattr(form, "temperature", 1.0))
        targets = self.ensemble.targets(self.answers, temperature, self.step)
        return [(share, student, Outputs(logits)) for share, logits in targets]
