"""Computes a student's logits for the API."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Predictor(Protocol):
    def logits(self, sha256: str, inputs: "NDArray[Any]") -> "NDArray[np.float32]":
        """logits (B, C) of a normalized batch (B, ...), by the exported ONNX file with this sha256.

        The batch holds float32, or of texts int64. The file is loaded once and kept. Blocks; call it from a
        thread. Raises ModelNotReady.
        """

    def opened(self, sha256: str, open_bytes: Callable[[bytes], Any]) -> Any:
        """What `open_bytes` makes of the stored file with this sha256, as a tokenizer; kept like a model.

        Raises ModelNotReady.
        """

    def close(self) -> None:
        """Frees every loaded model."""
