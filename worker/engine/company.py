"""Students that learn from each other, and a student that learns from its own average."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from app.catalog.base import Outputs
from worker.engine.distill import Alone
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Heard

if TYPE_CHECKING:
    from worker.engine.inputs import Seen


class Peers(Alone):
    """Each student hears what all others say to the same batch in the same step (Zhang et al., 2018)."""

    def heard(self, heard: Heard, answers: Sequence[Outputs], seen: "Seen") -> Sequence[Heard]:
        said = [one.logits.detach().float() for one in answers if one.logits is not None]
        return [heard.beside(torch.stack(said[:place] + said[place + 1 :], 1)) for place in range(len(said))]


class Average:
    """A student hears the moving average of its own weights and buffers, which has no gradient and is in eval
    mode (Tarvainen & Valpola, 2017).

    of: the student before anything is tapped in it. leaves: whether the average is the one that leaves.
    """

    def __init__(self, of: nn.Module, decay: float, *, leaves: bool) -> None:
        self._of, self._decay, self._leaves = of, decay, leaves
        self.module, self._steps = deepcopy(of), 0
        self._voice = WhiteBox(self.module)

    def heard(self, heard: Heard, answers: Sequence[Outputs], seen: "Seen") -> Sequence[Heard]:
        logits = self._voice(seen.student).logits
        assert logits is not None
        return [heard.beside(logits.unsqueeze(1))]

    @torch.no_grad()
    def stepped(self) -> None:
        """Whole numbers, like a count of batches, are copied."""
        self._steps += 1
        decay = min(self._decay, 1 - 1 / (self._steps + 1))  # a plain mean until the moving one is surer
        mine, theirs = (chain(module.parameters(), module.buffers()) for module in (self.module, self._of))
        for average, now in zip(mine, theirs, strict=True):
            if average.is_floating_point():
                average.lerp_(now, 1 - decay)
            else:
                average.copy_(now)

    def students(self, trained: Sequence[nn.Module]) -> Sequence[nn.Module]:
        return [*trained, self.module] if self._leaves else [self.module, *trained]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "average": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self.module.load_state_dict(state["average"])
