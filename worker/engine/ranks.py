"""One training over several devices, a process each: every rank takes a part of each batch, and all of them
take the same step.

Rank 0 is the attempt's own process, and the only one that writes. The gradients of the parts are added up, so
that a step is that of the whole batch; what compares the rows of a batch, batch norm among it, sees those of
its own rank. What rank 0 is told (`finish`) and a loss that is no finite number travel with the gradients, so
that all ranks stop at the same step.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from app.errors import NumericDivergence
from worker.engine.device import out_of_memory

if TYPE_CHECKING:
    from worker.engine.inputs import Seen
    from worker.engine.learner import Learner

FEWEST = 2  # rows of a rank: batch norm needs two
PATIENCE = timedelta(days=30)  # a rank that is gone ends the others; one that works long does not

T = TypeVar("T")


class PeerLost(Exception):
    """Another rank's process is gone, and without it no step can be taken."""


class OneRank:
    """The usual case: one process, one device."""

    first = True

    def own(self, seen: "Seen", chance: tuple[int, int]) -> "Seen":
        return seen

    def sharing(
        self, learners: "Sequence[Learner]", values: Tensor, finish: threading.Event
    ) -> AbstractContextManager[None]:
        return nullcontext()

    def enough(self, finish: threading.Event) -> bool:
        return finish.is_set()

    def align(self, modules: Sequence[nn.Module]) -> None: ...

    def told(self, find: Callable[[], T]) -> T:
        return find()


ONE_RANK = OneRank()
Meeting = tuple[int, int, Path]  # rank, number of ranks, and a file in the attempt's folder where they meet


@contextmanager
def met(device: torch.device, meeting: Meeting | None) -> "Iterator[Ranks | OneRank]":
    """All ranks, as soon as every one is there. None: there is one."""
    if meeting is None:
        yield ONE_RANK
        return
    rank, size, rendezvous = meeting
    while not rendezvous.parent.is_dir():
        time.sleep(0.05)  # rank 0 makes it
    ranks = Ranks(rank, size, device, rendezvous)
    yield ranks
    ranks.close()


class Ranks:
    """One rank of several. rendezvous: a file in a folder that they share."""

    def __init__(self, rank: int, size: int, device: torch.device, rendezvous: Path) -> None:
        self.rank, self.size, self._device = rank, size, device
        self._over, self._alike = False, False
        store = distributed.FileStore(str(rendezvous), size)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def close(self) -> None:
        distributed.destroy_process_group()

    def own(self, seen: "Seen", chance: tuple[int, int]) -> "Seen":
        """This rank's rows of a batch; of a small one all of them. chance: seed and step, from which it draws
        what is its own, dropout say."""
        torch.manual_seed(int(np.random.SeedSequence([*chance, self.rank]).generate_state(1)[0]))
        self._alike = len(seen) < FEWEST * self.size
        if self._alike:
            return seen
        ends = [len(seen) * rank // self.size for rank in (self.rank, self.rank + 1)]
        return seen.part(slice(*ends))

    @contextmanager
    def sharing(
        self, learners: "Sequence[Learner]", values: Tensor, finish: threading.Event
    ) -> Iterator[None]:
        """What is added to gradients and values inside becomes the sum over all ranks.

        When a loss was no finite number on one of them, or its memory ran out, it is raised on all. Raises
        PeerLost.
        """
        failed: Exception | None = None
        try:
            yield
        except NumericDivergence as error:
            failed = error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failed = error
        learned = [one for learner in learners for one in learner.learned if one.requires_grad]
        for one in learned:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        diverged = isinstance(failed, NumericDivergence)
        told = torch.tensor([diverged, failed is not None, finish.is_set()], device=self._device).float()
        parts = [one.grad for one in learned if one.grad is not None] + [values, told]
        flat = torch.cat([part.reshape(-1) for part in parts])
        self._collect(partial(distributed.all_reduce, flat))
        if self._alike:
            flat[: -len(told)] /= self.size
        for part, total in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))
        any_diverged, any_failed, over = told.tolist()
        self._over = bool(over)
        if over:
            finish.set()
        if failed is not None:
            raise failed
        if any_diverged:
            raise NumericDivergence("On another device a loss became no finite number.")
        if any_failed:
            raise torch.OutOfMemoryError("another device ran out of memory")

    def enough(self, finish: threading.Event) -> bool:
        """Whether rank 0 was told to finish before the last step."""
        return self._over

    def align(self, modules: Sequence[nn.Module]) -> None:
        """Buffers, as batch norm's running means, become those of rank 0."""
        for module in modules:
            for buffer in module.buffers():
                self._collect(partial(distributed.broadcast, buffer, 0))

    def told(self, find: Callable[[], T]) -> T:
        """What rank 0 finds."""
        box: list[Any] = [find() if self.first else None]
        self._collect(partial(distributed.broadcast_object_list, box, 0, device=self._device))
        found: T = box[0]
        return found

    def _collect(self, what: Callable[[], object]) -> None:
        try:
            what()
        except RuntimeError as error:
            raise PeerLost("another rank is gone") from error
