"""A student while it learns: its objective, its optimizer, its steps, and the best of its states."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from app.catalog.base import Loss, Outputs
from app.catalog.measures import LOWER_IS_BETTER
from worker.engine.device import Device, state_on_cpu
from worker.engine.features import Tapped
from worker.engine.looks import look
from worker.engine.objective import Objective, Terms
from worker.engine.schedule import make_optimizer
from worker.engine.teaching import Heard, Teaching

if TYPE_CHECKING:
    from app.catalog.spec import Training
    from worker.engine.inputs import Seen

TIED = ("log_loss", "kl", "mae")  # the first of them that is measured tells equal metrics apart
PROBED_ROWS = 2

Metrics = dict[str, float]


class Learner:
    """probe: one real batch, for the shapes of what the losses look at.

    Raises ShapeMismatch and UnknownLayer.
    """

    def __init__(
        self,
        student: nn.Module,
        forms: Sequence[Loss],
        training: "Training",
        *,
        device: Device,
        teaching: Teaching | None,
        probe: "Seen",
        rows: int,
    ) -> None:
        self.module, self._device, self._training = student, device, training
        self.tapped = Tapped(student)
        few = probe.part(slice(0, PROBED_ROWS))
        self.looks = look(forms, self.tapped, teaching, few, rows=rows, seed=training.seed)
        self.objective = Objective(self.looks.forms, self.looks.contexts, device.on)
        self._weights = list(student.parameters())
        self.learned = [*self._weights, *self.objective.parameters()]
        self.optimizer = make_optimizer(training.optimizer, self.learned)
        self.pulls: Metrics = {}

    def close(self) -> None:
        """The module is as it was before, but for what it learned."""
        self.tapped.close()

    def told_pairs(self) -> list[str]:
        """What `pairs: auto` became, a sentence a term."""
        return [
            f"{self.objective.names[place]} compares "
            + ", ".join(f"{mine} with {theirs}" for mine, theirs in pairs)
            + " (student with teacher), which stand at like depths."
            for place, pairs in self.looks.chosen.items()
        ]

    def begin(self, epoch: int, places: Sequence[int]) -> Terms:
        """The terms of an epoch; the module is in training mode from here on."""
        self.module.train()
        return self.objective.at(epoch, places)

    def forget(self) -> None:
        """The optimizer starts anew: what it remembers of a stage's gradients, hints of weight 100 say, would
        keep the weights where they are for the next one's."""
        self.optimizer.state.clear()

    def answer(self, seen: "Seen") -> Outputs:
        with self._device.autocast():
            return self.tapped(seen.student)

    def add_gradients(
        self, terms: Terms, outputs: Outputs, heard: Heard, seen: "Seen", shares: Tensor | None
    ) -> Tensor:
        """Of a batch, or of a part of it with its share of each term: the terms' values, (terms,), detached.

        Raises NumericDivergence, naming the terms, before a loss that is no finite number moves the
        optimizer.
        """
        values = self.objective.values(terms, outputs, heard, seen.batch)
        values = values if shares is None else values * shares
        loss = values @ terms.weights
        if not loss.isfinite():
            raise self.objective.diverged(terms, values, heard.step)
        if not self.pulls and len(terms.places) > 1:
            self.pulls = self.objective.pulls(terms, values, self._weights)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return values.detach()

    def step(self, lr: float) -> None:
        """The optimizer moves, and the gradients are gone."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.learned, self._training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of it."""
        return {
            "student": self.module.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pulls": self.pulls,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.zero_grad()
        self.pulls = dict(state["pulls"])


@dataclass
class Best:
    """The best weights so far. Equal metrics are told apart by a finer one, which does not end a
    standstill."""

    metric: str
    stale: int = 0  # epochs since the metric last improved
    step: int = 0
    metrics: Metrics = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def replaced_by(self, student: nn.Module, step: int, metrics: Metrics) -> bool:
        """Looks at an epoch's end."""
        improved = not self.metrics or self._gain(metrics, self.metric) > 0
        self.stale = 0 if improved else self.stale + 1
        doubt = next((name for name in TIED if name in metrics), self.metric)
        tie = not improved and self._gain(metrics, self.metric) == 0 and self._gain(metrics, doubt) > 0
        if improved or tie:
            self.step, self.metrics, self.state = step, metrics, state_on_cpu(student)
        return improved or tie

    def _gain(self, metrics: Metrics, name: str) -> float:
        return (self.metrics[name] - metrics[name]) * (1 if name in LOWER_IS_BETTER else -1)
