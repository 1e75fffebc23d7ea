"""Computes a student's logits for the API."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Predictor(Protocol):
    def logits(self, sha256: str, inputs: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """logits (B, C) of a normalized batch (B, ...), by the exported ONNX file with this sha256.

        The file is loaded once and kept. Blocks; call it from a thread. Raises ModelNotReady.
        """

    def close(self) -> None:
        """Frees every loaded model."""
