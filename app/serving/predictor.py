"""The students and tokenizers in memory: each loaded once, the least recently used given up when the byte
budget is full."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any

import structlog

from app.errors import ModelNotReady, StillhouseError
from app.ports.predictor import Counts, Held
from app.serving.student import OnnxStudent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.ports.blobs import Blobs

# Measured: 3.2 for convolutions, whose weights the runtime keeps twice, once repacked; 1.3 for dense layers.
BYTES_PER_FILE_BYTE = 4
BYTES_PER_TOKENIZER_BYTE = 11  # measured: 10 of 30,000 tokens and more
BYTES_PER_MODEL = 4 * 1024**2  # graph, threads and buffers of the smallest model
FAILURE_KEPT_S = 30.0

log = structlog.get_logger()


@dataclass
class _Seat:
    """One file's place: empty, taken, or failed until `retry_at`. `loading` is held while it is filled.

    content: a student, or what else was made of the file. factor: bytes in memory for one in the file.
    """

    factor: int

    loading: Lock = field(default_factory=Lock)
    content: Any = None
    bytes: int = 0
    failure: str = ""
    retry_at: float = 0.0


class OnnxPredictor:
    """Keeps the contract of app.ports.predictor. A model given up while in use is freed after its last call.

    folder: scratch space, for a file between the blob store and memory.
    budget_bytes: for all loaded models together, by the estimate above.
    """

    def __init__(
        self,
        blobs: "Blobs",
        folder: Path,
        budget_bytes: int,
        threads: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs, self._folder, self._budget, self._threads = blobs, folder, budget_bytes, threads
        self._clock = clock
        self.counts = Counts()
        self._lock = Lock()
        self._seats: OrderedDict[str, _Seat] = OrderedDict()  # the least recently used first

    def logits(self, sha256: str, inputs: "NDArray[Any]") -> "NDArray[np.float32]":
        student: OnnxStudent = self._taken(sha256, self._student, BYTES_PER_FILE_BYTE)
        return student(inputs)

    def opened(self, sha256: str, open_bytes: Callable[[bytes], Any]) -> Any:
        return self._taken(sha256, lambda path: open_bytes(path.read_bytes()), BYTES_PER_TOKENIZER_BYTE)

    def held(self) -> Held:
        with self._lock:
            full = [seat.bytes for seat in self._seats.values() if seat.content is not None]
        return Held(len(full), sum(full))

    def close(self) -> None:
        with self._lock:
            self._seats.clear()

    def _student(self, path: Path) -> OnnxStudent:
        return OnnxStudent(path, self._threads)

    def _taken(self, sha256: str, open_file: Callable[[Path], Any], factor: int) -> Any:
        """What the file's place holds."""
        with self._lock:
            seat = self._seats.setdefault(sha256, _Seat(factor))
            self._seats.move_to_end(sha256)
        if seat.content is not None:
            self.counts.hits += 1
            return seat.content
        with seat.loading:
            return seat.content or self._load(sha256, seat, open_file)

    def _load(self, sha256: str, seat: _Seat, open_file: Callable[[Path], Any]) -> Any:
        wait_s = seat.retry_at - self._clock()
        if wait_s > 0:
            raise ModelNotReady(seat.failure, retry_after_s=math.ceil(wait_s))
        try:
            seat.content = self._fetch_and_open(sha256, seat, open_file)
        except (StillhouseError, OSError) as error:
            self.counts.failures += 1
            log.warning("model_load_failed", sha256=sha256, error=repr(error))
            ours = isinstance(error, ModelNotReady)
            seat.failure = str(error) if ours else "The student's exported file cannot be fetched; try again."
            seat.bytes, seat.retry_at = 0, self._clock() + FAILURE_KEPT_S
            raise ModelNotReady(seat.failure, retry_after_s=math.ceil(FAILURE_KEPT_S)) from error
        self.counts.loads += 1
        self._make_room(seat)
        return seat.content

    def _fetch_and_open(self, sha256: str, seat: _Seat, open_file: Callable[[Path], Any]) -> Any:
        size = self._blobs.size(sha256)
        if size is None:
            raise ModelNotReady("The student's exported file is missing from the store; run its job again.")
        seat.bytes = size * seat.factor + BYTES_PER_MODEL
        self._make_room(seat)
        self._folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "model.onnx"
            self._blobs.fetch(sha256, path)
            return open_file(path)

    def _make_room(self, seat: _Seat) -> None:
        """Gives up other models until `seat` fits; one that is loading stays, and looks again when it has."""
        if seat.bytes > self._budget:
            raise ModelNotReady(
                f"This student needs about {seat.bytes >> 20} MiB in memory, and all students together may "
                f"take {self._budget >> 20} MiB; raise STILLHOUSE_SERVING_BYTES or distill a smaller one."
            )
        with self._lock:
            taken = sum(other.bytes for other in self._seats.values())
            for sha256, other in list(self._seats.items()):
                if taken <= self._budget:
                    return
                if other is not seat and other.content is not None:
                    taken -= self._seats.pop(sha256).bytes
                    self.counts.evictions += 1
