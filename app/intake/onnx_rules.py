"""What an ONNX file from outside may hold.

onnxruntime sees such a file only after these rules, and only in a child process with limits.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import InvalidData, UnsafeFormat, shown
from app.intake.refusals import refusal

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_BYTES = 1024**3
MAX_NODES = 100_000
MAX_NESTING = 8  # subgraphs in subgraphs
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})  # "ai.onnx" is another spelling of ""
UNBOUNDED = frozenset({"Loop", "Scan", "SequenceMap"})  # how long they run is up to the data


def read_model(path: Path) -> "ModelProto":
    """The model, once it keeps every rule. Raises InvalidData for another file, UnsafeFormat."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if path.stat().st_size > MAX_BYTES:
        raise _refused(
            f"it has more than {MAX_BYTES:,} bytes",
            "Export a smaller model, or import a Hugging Face folder.",
        )
    raw = path.read_bytes()
    try:
        model = onnx.load_model_from_string(raw)
    except DecodeError:
        fix = "Upload a zip or tar of config.json and model.safetensors, or one .onnx."
        raise refusal(InvalidData, "the file is neither an archive nor an ONNX file", fix) from None
    _check_rules(model)
    try:
        onnx.checker.check_model(raw)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = shown(str(error).strip().partition("\n")[0], 200)
        fix = "Export the model again and run onnx.checker.check_model on the file."
        raise refusal(InvalidData, f"onnx.checker refuses the file: {reason}", fix) from None
    return model


def nodes(graph: "GraphProto", depth: int = 0) -> "Iterator[NodeProto]":
    """Every node of the graph and of the graphs inside it. Raises UnsafeFormat when nested too deeply."""
    if depth > MAX_NESTING:
        raise _refused(
            f"its subgraphs are nested more than {MAX_NESTING} deep", "Export it without nested conditions."
        )
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from nodes(inner, depth + 1)


def _check_rules(model: "ModelProto") -> None:
    if not model.graph.node:
        raise refusal(
            InvalidData, "the file is no ONNX model: it holds no operators", "Upload an archive or one .onnx."
        )
    if model.functions:
        fix = "Inline them first: onnx.inliner.inline_local_functions(model)."
        raise _refused("it defines functions of its own", fix)
    if model.training_info:
        raise _refused("it holds training steps", "Export the model for inference.")
    for count, node in enumerate(nodes(model.graph)):
        if count == MAX_NODES:
            raise _refused(f"it has more than {MAX_NODES:,} operators", "Export a smaller model.")
        _check_node(node)
    for tensor in _tensors(model.graph):
        if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
            fix = "Save it as one file: onnx.save(model, path, save_as_external_data=False)."
            raise _refused("it points at data outside the file", fix)


def _check_node(node: "NodeProto") -> None:
    if node.domain not in DOMAINS:
        detail = f"it uses the operator {shown(node.op_type)} of the domain {shown(node.domain)}"
        raise _refused(detail, "Export with the standard operators alone (domains '' and 'ai.onnx.ml').")
    if node.op_type in UNBOUNDED:
        fix = "Export a model without loops, or import a Hugging Face folder."
        raise _refused(f"it uses {node.op_type}, whose running time has no bound", fix)


def _subgraphs(node: "NodeProto") -> "Iterator[GraphProto]":
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: "GraphProto") -> "Iterator[TensorProto]":
    """Every tensor that stands in the file: initializers and attributes, of inner graphs too."""
    yield from graph.initializer
    yield from _parts(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)
        for inner in _subgraphs(node):
            yield from _tensors(inner)


def _attribute_tensors(attribute: "AttributeProto") -> "Iterator[TensorProto]":
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from _parts([attribute.sparse_tensor])
    yield from _parts(attribute.sparse_tensors)


def _parts(sparse_tensors: Iterable[Any]) -> "Iterator[TensorProto]":
    for sparse in sparse_tensors:
        yield sparse.values
        yield sparse.indices


def _refused(detail: str, fix: str) -> UnsafeFormat:
    return refusal(UnsafeFormat, f"the ONNX file is refused: {detail}", fix)
