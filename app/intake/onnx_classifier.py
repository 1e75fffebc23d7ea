"""A bare ONNX model as a black-box teacher: what it takes and gives, and a run to see that it works."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.base import Frozen, Input, Task
from app.errors import Invalid, InvalidData, ShapeMismatch, shown
from app.intake.labels import check_target
from app.intake.onnx_rules import read_model
from app.intake.onnx_signature import (
    DOUBLE,
    count_parameters,
    read_input,
    read_labels,
    read_number,
    read_output,
    read_output_kind,
)
from app.intake.refusals import refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, ValueInfoProto

ROWS = 2  # of the trial run
LAYOUTS = {"image": "(N, C, H, W)", "vector": "(N, features)"}


def inspect(path: Path, task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the registry keeps of the file. options: labels, preprocessing, output, output_kind, or None."""
    if task.modality == "text":
        fix = "Import its Hugging Face folder, with tokenizer.json and weights as safetensors."
        raise refusal(
            Invalid, "an ONNX file of a text model comes without its tokenizer", fix, pointer="/task"
        )
    model = read_model(path)
    source = read_input(model.graph)
    row, preprocessing = _row(task, source, options["preprocessing"])
    output, kind = _output(task, model.graph, options)
    dtype = "float64" if source.type.tensor_type.elem_type == DOUBLE else "float32"
    scores = _trial(path, output.name, source.name, (ROWS, *row.shape), dtype)
    _check_scores(scores, kind)
    labels = _labels(task, model.graph, scores.shape[1], options["labels"])
    return {
        "format": "onnx",
        "family": "onnx",
        "labels": labels,
        "input": row.model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "gives": ["logits"],
        "details": {"file": "model.onnx", "input": source.name, "output": output.name, "output_kind": kind},
        "parameters": count_parameters(model),
    }


def _output(task: Task, graph: "GraphProto", options: Mapping[str, Any]) -> "tuple[ValueInfoProto, str]":
    """The output that is read, and what its numbers are: logits, probabilities or a value."""
    if task.answer == "class":
        output = read_output(graph, options["output"])
        return output, options["output_kind"] or read_output_kind(graph, output.name)
    if options["output_kind"] is not None:
        detail = f"{task.kind} has neither logits nor probabilities"
        fix = "Leave `output_kind` out; the output's unit is `target` in `preprocessing`."
        raise refusal(Invalid, detail, fix, pointer="/output_kind", code="not_for_numbers")
    return read_number(graph, options["output"]), "value"


def _labels(task: Task, graph: "GraphProto", outputs: int, given: Sequence[Any] | None) -> list[str]:
    if task.answer == "class":
        return read_labels(graph, outputs, given)
    if outputs != 1:
        fix = "Export a regressor of one target."
        raise refusal(ShapeMismatch, f"the model answers {outputs} numbers a row", fix, pointer="/output")
    return check_target(given if given is not None else ["value"], "/labels")


def _row(task: Task, source: "ValueInfoProto", said: Mapping[str, Any] | None) -> tuple[Input, Frozen]:
    """The shape of an encoded row, as the file fixes it or else as the user says, and its preprocessing."""
    dims = source.type.tensor_type.shape.dim
    layout = LAYOUTS[task.modality]
    if len(dims) != layout.count(",") + 1:
        detail = f"the input {shown(source.name)} has {len(dims)} dimensions"
        raise refusal(ShapeMismatch, detail, f"{task.kind} needs {layout}.")
    if dims[0].dim_value:
        fix = "Export it with a dynamic batch dimension."
        raise refusal(ShapeMismatch, f"the batch size is fixed to {dims[0].dim_value}", fix)
    sizes = [dim.dim_value for dim in dims[1:]]
    if 0 not in sizes:
        row = Input(modality=task.modality, shape=tuple(sizes))
    elif said is not None:
        row = task.input(task.parse_preprocessing(said))
    else:
        fix = f"Export it with fixed sizes {layout}, or send the whole `preprocessing`."
        raise refusal(ShapeMismatch, f"the shape of the input {shown(source.name)} is open", fix)
    if any(have and have != want for have, want in zip(sizes, row.shape, strict=True)):
        detail = f"the preprocessing makes {list(row.shape)}, the model takes {sizes} (0: any)"
        raise refusal(
            ShapeMismatch, detail, "Use the model's sizes in `preprocessing`.", pointer="/preprocessing"
        )
    return row, task.imported_preprocessing({}, said, row)


def _trial(path: Path, output: str, source: str, shape: tuple[int, ...], dtype: str) -> "NDArray[np.float64]":
    """What the model answers to rows of zeros, (ROWS, C). Raises InvalidData, ShapeMismatch."""
    import numpy as np
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    failures = (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
        state.RuntimeException,
    )  # fmt: skip
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (scores,) = session.run([output], {source: np.zeros(shape, dtype)})
    except failures as error:
        detail = f"the model does not run on zeros of shape {list(shape)} ({type(error).__name__})"
        raise refusal(InvalidData, detail, f"Check that it runs in onnxruntime {ort.__version__}.") from None
    if scores.ndim != 2 or len(scores) != ROWS:
        detail = f"the output {shown(output)} has the shape {list(scores.shape)} for {ROWS} rows"
        raise refusal(ShapeMismatch, detail, "Export an output (N, classes).", pointer="/output")
    return np.asarray(scores, np.float64)


def _check_scores(scores: "NDArray[np.float64]", kind: str) -> None:
    import numpy as np

    if not np.isfinite(scores).all():
        raise refusal(
            InvalidData,
            "the model answers zeros with NaN or infinity",
            "Check the model and export it again.",
        )
    if kind == "probabilities" and (
        scores.min() < -1e-3 or not np.allclose(scores.sum(axis=1), 1, atol=1e-2)
    ):
        detail = "the output is said to hold probabilities, but they do not sum to 1"
        raise refusal(
            Invalid, detail, "Send `output_kind`: logits.", pointer="/output_kind", code="wrong_output_kind"
        )
