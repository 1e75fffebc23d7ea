"""All that moves while students are trained, which is all that a resumed run needs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worker.engine.packing import Tensors, pack, unpack

if TYPE_CHECKING:
    from worker.engine.distill import Company, Progress
    from worker.engine.learner import Learner

State = dict[str, Any]


@dataclass
class Standing:
    """name: the run's, within its job. log_losses: on the validation rows, so far."""

    name: str
    learners: "Sequence[Learner]"
    company: "Company"
    progress: "Progress"
    log_losses: list[float] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all that is learned is finite."""
        with torch.no_grad():
            return all(bool(one.isfinite().all()) for pupil in self.learners for one in pupil.learned)

    def state_dict(self) -> State:
        """Tensors are those that training goes on with, not copies."""
        return {
            "learners": [one.state_dict() for one in self.learners],
            "company": self.company.state_dict(),
            "progress": self.progress.state_dict(),
            "log_losses": self.log_losses,
            "chance": _chance(),
        }

    def load_state_dict(self, state: State) -> None:
        for learner, one in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(one)
        self.company.load_state_dict(state["company"])
        self.progress.load_state_dict(state["progress"])
        self.log_losses = list(state["log_losses"])
        _draw_on(state["chance"])

    def copy(self) -> State:
        """The state as it is now, on the CPU."""
        tensors: Tensors = {}
        packed = pack(self.state_dict(), tensors)
        state: State = unpack(packed, {name: one.detach().cpu() for name, one in tensors.items()})
        return state


def _chance() -> State:
    """Every source of random numbers."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, numbers, gauss = random.getstate()
    state: State = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, torch.tensor(numbers), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _draw_on(state: State) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
