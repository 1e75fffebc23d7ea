"""The slots of one worker process: what a job may take of them, and who has them now.

A GPU is one slot; `slots` beyond the GPUs have none and do for CPU jobs alone. Whoever claims holds the
workplace meanwhile, so that slots which a claim counts on are there when it succeeds: a job that needs
several gets all of them at once or none.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from socket import gethostname

import structlog

from app.db.ids import new_id
from app.db.tables import Job
from app.errors import Misconfigured
from app.ports import gpus
from app.services.claims import Room
from app.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True)
class Places:
    """Slots that a job holds. gpus: ids of their GPUs; plain: how many have none."""

    gpus: tuple[str, ...]
    plain: int
    computes_on_gpus: bool

    @property
    def count(self) -> int:
        return len(self.gpus) + self.plain

    @property
    def visible(self) -> str:
        """CUDA_VISIBLE_DEVICES for the job's processes: a CPU job sees none, even where its slot has one."""
        return ",".join(self.gpus) if self.computes_on_gpus else ""


PLAIN = Places((), 1, computes_on_gpus=False)


class Workplace:
    """Raises Misconfigured when the settings promise GPUs that are not there."""

    def __init__(self, settings: Settings) -> None:
        self.id = new_id("wrk")
        self.host = gethostname()
        wanted = settings.accelerators
        found = gpus.find(settings.devices) if not wanted or "cuda" in wanted else []
        if "cuda" in wanted and not found:
            raise Misconfigured(
                'STILLHOUSE_ACCELERATORS offers "cuda", but there is no GPU here: nvidia-smi lists none. '
                "Name them in STILLHOUSE_DEVICES, or offer cpu only."
            )
        self.accelerators: Sequence[str] = wanted or (("cuda", "cpu") if found else ("cpu",))
        self.slots = settings.slots or len(found) or 1
        self.gpus = found[: self.slots]
        self._free = [gpu.id for gpu in self.gpus]
        self._plain = self.slots - len(self.gpus)
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else takes slots meanwhile."""
        with self._lock:
            yield

    def room(self) -> Room:
        whole = self._counts(len(self.gpus), self.slots - len(self.gpus))
        return Room(self._counts(len(self._free), self._plain), whole)

    def taken(self) -> int:
        """Slots that jobs hold."""
        return self.slots - len(self._free) - self._plain

    def take(self, job: Job) -> Places:
        """For a job that was claimed while this was held. A CPU job leaves the GPUs free where it can."""
        on_gpus = self._on_gpus(job.accelerator)
        plain = 0 if on_gpus else min(self._plain, job.devices)
        count = job.devices - plain
        taken, self._free = self._free[:count], self._free[count:]
        self._plain -= plain
        return Places(tuple(taken), plain, on_gpus)

    def give(self, places: Places) -> None:
        with self._lock:
            order = [gpu.id for gpu in self.gpus]
            self._free = sorted((*self._free, *places.gpus), key=order.index)
            self._plain += places.plain

    def _counts(self, gpus: int, plain: int) -> dict[str, int]:
        free = {name: gpus if self._on_gpus(name) else gpus + plain for name in self.accelerators}
        return {"auto": gpus if self._on_gpus("auto") else gpus + plain, **free}

    def _on_gpus(self, accelerator: str) -> bool:
        """`auto` is a GPU where this worker offers any."""
        return accelerator == "cuda" or (accelerator == "auto" and "cuda" in self.accelerators)
