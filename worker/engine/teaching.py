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
    """answers: (B, K, C). shown: what the teachers at hand show of themselves, by their place.

    others: (B, E, C), of students that learn at the same time.
    """

    ensemble: Ensemble
    answers: Tensor | None
    shown: Mapping[int, Outputs]
    step: int
    others: Tensor | None = None

    @classmethod
    def nothing(cls, step: int) -> "Heard":
        """What a control hears."""
        return cls(Ensemble(None, [1.0]), None, {}, step)

    def beside(self, others: Tensor) -> "Heard":
        """The same with students that learn at the same time, (B, E, C): each is a target of its own, and
        counts as much as a teacher of weight 1."""
        return replace(self, others=others)

    def pairs(self, form: Loss, student: Outputs) -> Sequence[tuple[float, Outputs, Outputs]]:
        """What a term compares, and the share of each comparison: student with teacher. form: of this
        epoch."""
        if form.needs & {"features", "attentions", "values"}:
            return [(1.0, student, self.shown[getattr(form, "teacher", 0)])]
        temperature = float(getattr(form, "temperature", 1.0))
        targets = [] if self.answers is None else self.ensemble.targets(self.answers, temperature, self.step)
        if self.others is not None:
            total = (self.ensemble.weight if targets else 0.0) + self.others.shape[1]
            targets = [(share * self.ensemble.weight / total, logits) for share, logits in targets]
            targets += [(1 / total, logits) for logits in self.others.unbind(1)]
        return [(share, student, Outputs(logits)) for share, logits in targets] or [(1.0, student, Outputs())]
