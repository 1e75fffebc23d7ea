"""An exported student in ONNX Runtime: what the API answers with, and what the worker measures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ModelNotReady

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PROVIDERS = ["CPUExecutionProvider"]


class OnnxStudent:
    """A loaded ONNX file, for many threads at once: a normalized batch (B, ...) becomes logits (B, C).

    Raises ModelNotReady for a file that the runtime refuses. The file is not needed after that.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it keeps the largest batch's buffers and is no faster
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
        except _refusals() as error:
            detail = "The student's exported file cannot be loaded; run its job again."
            raise ModelNotReady(detail) from error
        self._input = self._session.get_inputs()[0].name
        self._output = [self._session.get_outputs()[0].name]

    def __call__(self, inputs: "NDArray[Any]") -> "NDArray[np.float32]":
        logits: NDArray[np.float32] = self._session.run(self._output, {self._input: inputs})[0]
        return logits


def _refusals() -> tuple[type[Exception], ...]:
    """What the runtime raises for a file it does not take; these have no class of their own in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (RuntimeError, state.RuntimeException, *(getattr(state, name) for name in named))
