"""Students as ONNX files that describe themselves."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.catalog.base import Bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "model.onnx"
OPSET = 20
OUTPUT = "logits"


def input_name(bundle: Bundle) -> str:
    return "pixel_values" if bundle.input.modality == "image" else "features"


def write(bundle: Bundle, path: Path) -> None:
    """The student in float32 with a free batch size; labels, task and preprocessing stand in its metadata."""
    import torch

    name, batch = input_name(bundle), torch.from_numpy(bundle.sample[:2])
    if len(batch) == 1:
        batch = batch.repeat(2, *[1] * (batch.ndim - 1))  # a size of one would be taken for a constant
    with warnings.catch_warnings(), torch.no_grad(), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            bundle.student, (batch,), dynamo=True, verbose=False, opset_version=OPSET,
            input_names=[name], output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(
        labels=json.dumps(list(bundle.labels)),
        task=bundle.task.model_dump_json(),
        preprocessing=bundle.preprocessing.model_dump_json(),
    )
    program.save(str(path), external_data=False)


def open_file(path: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
    """The file in plain ONNX Runtime, from a normalized batch to logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def logits(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
        found: NDArray[np.float32] = session.run([OUTPUT], {name: batch})[0]
        return found

    return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what it does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
