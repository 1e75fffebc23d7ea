"""Students as ONNX files that describe themselves."""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.base import Bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

NAME = "model.onnx"
OPSET = 20
OUTPUT = "logits"
INPUTS = {"image": "pixel_values", "vector": "features", "text": "input_ids"}


def input_name(bundle: Bundle) -> str:
    return INPUTS[bundle.input.modality]


def write(bundle: Bundle, path: Path) -> None:
    """The student in float32, unless the file is there already. Batch size and length of texts are free.

    Its metadata hold, as JSON, `labels`, `task` and `preprocessing`, and the sha256 of the weights.
    """
    digest = _digest(bundle.student)
    if not (path.exists() and metadata(path).get("weights") == digest):
        _trace(bundle, path, digest)


def metadata(path: Path) -> dict[str, str]:
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def open_file(path: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
    """The file in plain ONNX Runtime, from a normalized batch to logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def logits(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
        found: NDArray[np.float32] = session.run([OUTPUT], {name: batch})[0]
        return found

    return logits


def _trace(bundle: Bundle, path: Path, digest: str) -> None:
    import torch

    batch = torch.from_numpy(bundle.sample[:2])
    if len(batch) == 1:  # a size of one would be taken for a constant
        batch = batch.repeat(2, *[1] * (batch.ndim - 1))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _student(bundle),
            (batch,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[input_name(bundle)],
            output_names=[OUTPUT],
            dynamic_shapes=(_sizes(bundle),),
        )
    assert program is not None
    program.model.metadata_props.update(
        labels=json.dumps(list(bundle.labels)),
        task=bundle.task.model_dump_json(),
        preprocessing=bundle.preprocessing.model_dump_json(),
        weights=digest,
    )
    program.save(str(path), external_data=False)


def _student(bundle: Bundle) -> "nn.Module":
    """A text's student within another module: of the outermost one the tracer calls no hook."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = bundle.student

        def forward(self, ids: "Tensor") -> "Tensor":
            logits: Tensor = self.student(ids).logits
            return logits

    return Logits().eval() if bundle.input.modality == "text" else bundle.student


def _sizes(bundle: Bundle) -> dict[int, Any]:
    """The sizes that are free, by dimension."""
    from torch.export import Dim

    free: dict[int, Any] = {0: Dim("batch")}
    if bundle.input.modality == "text":
        free[1] = Dim("tokens", min=2, max=max(bundle.input.shape[0], 3))
    return free


def _digest(student: "nn.Module") -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(student.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what it does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
