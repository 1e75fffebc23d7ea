"""Computes a student's logits for the API."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Counts:
    """What a predictor did with files: found in memory, loaded, failed to load, given up for others."""

    hits: int = 0
    loads: int = 0
    failures: int = 0
    evictions: int = 0


@dataclass(frozen=True)
class Held:
    """What is in memory. bytes: as they are reckoned."""

    files: int
    bytes: int


class Answering(Protocol):
    def logits(self, sha256: str, inputs: "NDArray[Any]") -> "NDArray[np.float32]":
        """logits (B, C) of a normalized batch (B, ...), by the exported ONNX file with this sha256.

        The batch holds float32, or of texts int64. The file is loaded once and kept. Blocks; call it from a
        thread. Raises ModelNotReady.
        """

    def opened(self, sha256: str, open_bytes: Callable[[bytes], Any]) -> Any:
        """What `open_bytes` makes of the stored file with this sha256, as a tokenizer; kept like a model.

        Raises ModelNotReady.
        """


class Predictor(Answering, Protocol):
    counts: Counts

    def held(self) -> Held:
        """As of now."""

    def close(self) -> None:
        """Frees every loaded model."""
