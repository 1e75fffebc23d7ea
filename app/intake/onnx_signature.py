"""What an ONNX classifier or regressor says of itself: input, output, classes and learned numbers."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

from app.catalog.labels import label_name
from app.errors import Invalid, ShapeMismatch, shown
from app.intake.labels import check_count, check_labels
from app.intake.onnx_rules import nodes
from app.intake.refusals import refusal

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

FLOAT, DOUBLE = 1, 11  # onnx.TensorProto
LEARNED = frozenset(
    {FLOAT, DOUBLE, 10, 16, 2, 3}
)  # also in half precision, and in the 8 bits of a quantized model
CLASS_LISTS = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")
_ZIPMAP = "Export it again with options={id(model): {'zipmap': False}}, so that it gives a plain tensor."


def read_input(graph: "GraphProto") -> "ValueInfoProto":
    """The only input, a float or double tensor. Raises ShapeMismatch."""
    initialized = {tensor.name for tensor in graph.initializer}
    inputs: list[ValueInfoProto] = [value for value in graph.input if value.name not in initialized]
    if len(inputs) != 1:
        fix = "Export it with exactly one input tensor (N, features) or (N, C, H, W)."
        raise refusal(ShapeMismatch, f"the model has {len(inputs)} inputs ({_names(inputs)})", fix)
    if inputs[0].type.tensor_type.elem_type not in (FLOAT, DOUBLE):
        detail = f"the input {shown(inputs[0].name)} is no float or double tensor"
        raise refusal(ShapeMismatch, detail, "Export it with a float32 input.")
    return inputs[0]


def read_output(graph: "GraphProto", wanted: str | None) -> "ValueInfoProto":
    """The wanted output (N, classes); None: the only one, or `probabilities`. Raises ShapeMismatch."""
    scores: dict[str, ValueInfoProto] = {value.name: value for value in graph.output if _is_scores(value)}
    name = wanted
    if wanted is None:
        name = next(iter(scores)) if len(scores) == 1 else "probabilities"
    if name in scores:
        return scores[name]
    maps = [value.name for value in graph.output if value.type.WhichOneof("value") != "tensor_type"]
    if maps and (wanted in maps or not scores):
        detail = f"the output {shown(maps[0])} is a list of maps (ZipMap)"
        raise refusal(ShapeMismatch, detail, _ZIPMAP, pointer="/output")
    detail = (
        "it is not clear which output to read"
        if wanted is None
        else f"{shown(wanted)} is no float output (N, classes)"
    )
    fix = f"Name one of these in `output`: {_names(list(scores.values()))}."
    raise refusal(ShapeMismatch, detail, fix, pointer="/output")


def read_number(graph: "GraphProto", wanted: str | None) -> "ValueInfoProto":
    """The wanted output (N, 1) of a regressor; None: the only one. Raises ShapeMismatch."""
    found: dict[str, ValueInfoProto] = {value.name: value for value in graph.output if _is_scores(value)}
    name = next(iter(found), None) if wanted is None and len(found) == 1 else wanted
    if name in found and found[name].type.tensor_type.shape.dim[1].dim_value in (0, 1):
        return found[name]
    detail = f"it is not clear which output (N, 1) to read: {_names(list(graph.output))}"
    raise refusal(
        ShapeMismatch, detail, "Name a float output of one number a row in `output`.", pointer="/output"
    )


def read_output_kind(graph: "GraphProto", output: str) -> str:
    """`logits` or `probabilities`, by the output's name, else by what makes it. Raises Invalid."""
    if output in ("logits", "probabilities"):
        return output
    makers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
    maker = makers.get(output)
    for _ in graph.node:
        if maker is None or maker.op_type not in ("Identity", "Cast"):
            break
        maker = makers.get(maker.input[0])
    made_by = maker.op_type if maker else ""
    if made_by in ("Softmax", "TreeEnsembleClassifier"):
        return "probabilities"
    if made_by in ("Gemm", "MatMul", "Add", "LogSoftmax"):
        return "logits"
    detail = f"it is not clear whether the output {shown(output)} holds logits or probabilities"
    fix = "Send `output_kind`: logits or probabilities."
    raise refusal(Invalid, detail, fix, pointer="/output_kind", code="output_kind_needed")


def read_labels(graph: "GraphProto", outputs: int, given: Sequence[Any] | None) -> list[str]:
    """The class names: as given, else as the classifier lists them. Raises Invalid, LabelMismatch."""
    if given is not None:
        names = check_labels(given, "/labels")
        check_count(names, outputs)
        return names
    lists = {names for names in _class_lists(graph) if len(names) == outputs}
    if len(lists) != 1:
        detail = (
            "the file does not name its classes"
            if not lists
            else "the file lists its classes in several ways"
        )
        fix = f"Send `labels`: a JSON list of {outputs} names in the order of the outputs."
        raise refusal(Invalid, detail, fix, pointer="/labels", code="labels_needed")
    return check_labels(lists.pop(), "/file")


def count_parameters(model: "ModelProto") -> int:
    """Initializers, constants, and what classical operators carry in attributes: thresholds, coefficients."""
    constants = (a.t for node in nodes(model.graph) for a in node.attribute if a.HasField("t"))
    tensors = (prod(t.dims) for t in chain(model.graph.initializer, constants) if t.data_type in LEARNED)
    lists = (
        a.floats for node in nodes(model.graph) for a in node.attribute if a.name != "nodes_hitrates"
    )  # statistics
    return int(sum(tensors) + sum(map(len, lists)))


def _is_scores(value: "ValueInfoProto") -> bool:
    tensor = value.type.tensor_type
    return tensor.elem_type in (FLOAT, DOUBLE) and len(tensor.shape.dim) == 2


def _names(values: "Sequence[ValueInfoProto]") -> str:
    return ", ".join(shown(value.name) for value in values[:8]) or "none"


def _class_lists(graph: "GraphProto") -> set[tuple[str, ...]]:
    """What classifiers carry; skl2onnx writes an initializer `classes` where no operator does."""
    from onnx import numpy_helper

    attributes = (a for node in graph.node for a in node.attribute if a.name in CLASS_LISTS)
    found: list[list[Any]] = [list(a.strings) or list(a.ints) for a in attributes]
    found += [
        numpy_helper.to_array(t).tolist()
        for t in graph.initializer
        if t.name == "classes" and len(t.dims) == 1
    ]
    return {tuple(label_name(_text(value)) or "" for value in values) for values in found}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
