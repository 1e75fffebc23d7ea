"""One training over several devices, a process each: every rank takes a part of each batch, and all of them
take the same step.

Rank 0 is the attempt's own process, and the only one that writes. The gradients of the parts are added up, so
that a step is that of the whole batch; what compares the rows of a batch, batch norm among it, sees those of
its own rank. What rank 0 is told (`finish`) and a loss that is no finite number travel with the gradients, so
that all ranks stop at the same step; and wherever else memory may run out on one rank alone, all are told
before they go on. What is no such mishap ends the process, and with it all ranks.
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
from worker.ends import PeerLost
from worker.engine.device import out_of_memory

if TYPE_CHECKING:
    from worker.engine.inputs import Seen
    from worker.engine.learner import Learner

FEWEST = 2  # rows of a rank: batch norm needs two
PATIENCE = timedelta(days=30)  # a rank that is gone ends the others; one that works long does not

T = TypeVar("T")


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

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

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


class Mishap:
    """What a job can go on from with less of something, if all ranks do."""

    error: Exception | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        try:
            yield
        except NumericDivergence as error:
            self.error = error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.error = error

    @property
    def told(self) -> list[bool]:
        """Whether a loss was no finite number, and whether memory ran out."""
        diverged = isinstance(self.error, NumericDivergence)
        return [diverged, self.error is not None and not diverged]

    def share(self, diverged: bool, exhausted: bool) -> None:
        """Raises it, or what has happened to another rank."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its frames hold memory, and this one would hold it
        if diverged:
            raise NumericDivergence("On another device a loss became no finite number.")
        if exhausted:
            raise torch.OutOfMemoryError("another device ran out of memory")


class Ranks:
    """One rank of several. rendezvous: a file in a folder that they share."""

    def __init__(self, rank: int, size: int, device: torch.device, rendezvous: Path) -> None:
        self.rank, self.size, self._device = rank, size, device
        self._over, self._alike = False, False
        store = distributed.FileStore(str(rendezvous), size)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
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
        mishap = Mishap()
        with mishap.caught():
            yield
        learned = [one for learner in learners for one in learner.learned if one.requires_grad]
        for one in learned:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        told = torch.tensor([*mishap.told, finish.is_set()], device=self._device).float()
        parts = [one.grad for one in learned if one.grad is not None] + [values, told]
        flat = torch.cat([part.reshape(-1) for part in parts])
        self._collect(partial(distributed.all_reduce, flat))
        if self._alike:
            flat[: -len(told)] /= self.size
        for part, total in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))
        diverged, exhausted, over = told.tolist()
        self._over = bool(over)
        if over:
            finish.set()
        mishap.share(bool(diverged), bool(exhausted))

    def enough(self, finish: threading.Event) -> bool:
        """Whether rank 0 was told to finish before the last step."""
        return self._over

    @contextmanager
    def together(self) -> Iterator[None]:
        """A mishap inside, on any rank, is raised on all. Raises PeerLost."""
        mishap = Mishap()
        with mishap.caught():
            yield
        told = torch.tensor(mishap.told).float()  # on the CPU: nobody waits for a GPU
        self._collect(partial(distributed.all_reduce, told))
        mishap.share(*(bool(one) for one in told))

    def align(self, modules: Sequence[nn.Module]) -> None:
        """Buffers, as batch norm's running means, become those of rank 0."""
        for module in modules:
            for buffer in module.buffers():
                self._collect(partial(distributed.broadcast, buffer, 0))

    def told(self, find: Callable[[], T]) -> T:
        """What rank 0 finds; its mishap is raised on all."""
        mishap, found = Mishap(), None
        with mishap.caught():
            found = find() if self.first else None
        box: list[Any] = [found, *mishap.told]
        self._collect(partial(distributed.broadcast_object_list, box, 0, device=self._device))
        heard: T = box[0]
        mishap.share(*box[1:])
        return heard

    def _collect(self, what: Callable[[], object]) -> None:
        try:
            what()
        except RuntimeError as error:
            raise PeerLost("another rank is gone") from error
