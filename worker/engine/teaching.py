"""What the teachers say to a batch: stored answers, or the teachers themselves where something is drawn anew
or a loss looks into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from app.catalog.base import LOOKS, Loss, Outputs, lift
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Seen
from worker.engine.lumped import Lumped, LumpedRows

if TYPE_CHECKING:
    from worker.engine.device import Rows
    from worker.engine.teachers import Live


@dataclass(frozen=True)
class Teaching:
    """stored: raw logits (N, K, C) of all K teachers in the job's order of labels, or the likeliest classes
    of one; None: those at hand are asked.

    live: the teachers at hand, by their place.
    """

    ensemble: Ensemble
    stored: "Rows | LumpedRows | None"
    live: "Mapping[int, Live]" = field(default_factory=dict)

    def hear(self, seen: Seen, step: int) -> "Heard":
        shown = {place: teacher(seen.teachers[place]) for place, teacher in self.live.items()}
        answers: Tensor | Lumped | None = None
        if self.stored is not None:
            answers = self.stored[seen.positions]
        elif shown:
            answers = torch.stack([shown[place].logits for place in sorted(shown)], 1)  # type: ignore[misc]
        answers = lift(answers) if isinstance(answers, Tensor) else answers
        return Heard(self.ensemble, answers, shown, step)


@dataclass(frozen=True)
class Heard:
    """answers: (B, K, C), or one teacher's likeliest classes. shown: what the teachers at hand show of
    themselves, by their place.

    others: (B, E, C), of students that learn at the same time.
    """

    ensemble: Ensemble
    answers: Tensor | Lumped | None
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
        if form.needs & LOOKS:
            return [(1.0, student, self.shown[getattr(form, "teacher", 0)])]
        temperature = float(getattr(form, "temperature", 1.0))
        pairs = self._of_teachers(form, student, temperature)
        if self.others is not None:
            total = (self.ensemble.weight if pairs else 0.0) + self.others.shape[1]
            pairs = [(share * self.ensemble.weight / total, own, other) for share, own, other in pairs]
            pairs += [(1 / total, student, Outputs(logits)) for logits in self.others.unbind(1)]
        return pairs or [(1.0, student, Outputs())]

    def _of_teachers(
        self, form: Loss, student: Outputs, temperature: float
    ) -> list[tuple[float, Outputs, Outputs]]:
        if self.answers is None:
            return []
        if not isinstance(self.answers, Lumped):
            targets = self.ensemble.targets(self.answers, temperature, self.step)
            return [(share, student, Outputs(logits)) for share, logits in targets]
        if not form.lumps or student.logits is None:
            return []  # of labels alone: the plan lets no other loss through
        own = replace(student, logits=self.answers.student(lift(student.logits), temperature))
        return [(1.0, own, Outputs(self.answers.teacher(temperature)))]
