"""Models that attack who loads them: tensors, graphs, configurations and vocabularies."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from app.intake.checkpoint_folder import FORBIDDEN_KEYS
from tests.hostile.packed import CONFIG, MODEL, zipped
from tests.intake.checkpoints import tensors_file

RESNET = json.loads(CONFIG)
FLOAT = TensorProto.FLOAT
PICKLE = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."  # calls os.system
ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def tensors() -> Iterator[tuple[str, bytes]]:
    for name, weights in _weights():
        yield f"tensors: {name}", zipped({**MODEL, "model.safetensors": weights})


def _weights() -> Iterator[tuple[str, bytes]]:
    eight = bytes(8)
    yield "nothing", b""
    yield "a header of 2^63 bytes", tensors_file({}, length=2**63)
    yield "a header of 2^64 - 1 bytes", tensors_file({}, length=2**64 - 1)
    yield "a header longer than the file", tensors_file({"a": ONE}, eight, length=10_000)
    yield "a header of five megabytes", tensors_file(b"{" + b" " * 5_000_000 + b"}")
    yield "two that overlap", tensors_file({"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}}, bytes(12))
    yield "a gap", tensors_file({"a": ONE, "b": {**ONE, "data_offsets": [12, 20]}}, bytes(20))
    yield "bytes of nobody", tensors_file({"a": ONE}, bytes(100))
    yield "bytes that are missing", tensors_file({"a": ONE}, bytes(4))
    yield "offsets the wrong way round", tensors_file({"a": {**ONE, "data_offsets": [8, 0]}}, eight)
    yield "offsets below zero", tensors_file({"a": {**ONE, "data_offsets": [-8, 0]}}, eight)
    yield "three offsets", tensors_file({"a": {**ONE, "data_offsets": [0, 8, 8]}}, eight)
    shapes: list[Any] = [[-2], [2.0], [True, 2], ["2"], [2**32, 2**32], [2**62, 4], None, {}, 2, [1] * 100]
    for shape in shapes:
        yield f"the shape {str(shape)[:30]}", tensors_file({"a": {**ONE, "shape": shape}}, eight)
    for dtype in ("F32 ", "f32", "F128", "OBJECT", "PICKLE", None, 4, ["F32"], "C64", "F4", "V8"):
        yield f"the dtype {dtype}", tensors_file({"a": {**ONE, "dtype": dtype}}, eight)
    for name in ("", "a/b", "../a", "a b", "\u202ea", "a" * 600, "a\n"):
        yield f"the name {name[:20]!r}", tensors_file({name: ONE}, eight)
    yield "a name twice", tensors_file(b'{"a":%b,"a":%b}' % ((json.dumps(ONE).encode(),) * 2), eight)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield "10,001 of them", tensors_file({f"t{number}": empty for number in range(10_001)})
    yield "metadata that is no text", tensors_file({"__metadata__": {"a": 1}, "a": ONE}, eight)
    yield "an entry with more", tensors_file({"a": {**ONE, "code": "import os"}}, eight)
    yield "an entry with less", tensors_file({"a": {"dtype": "F32"}}, eight)
    yield "NaN", tensors_file(b'{"a": NaN}')
    yield "depth", tensors_file(b'{"a":' * 5000 + b"1" + b"}" * 5000)
    yield "no UTF-8", tensors_file(b'{"\xff": 1}')
    yield "a list", tensors_file([1, 2])
    yield "a pickle", PICKLE
    yield "numbers of 5,000 digits", tensors_file(b'{"a": {"shape": [' + b"9" * 5000 + b"]}}")


def configurations() -> Iterator[tuple[str, bytes]]:
    for key in sorted(FORBIDDEN_KEYS):
        for depth in (0, 1, 6):
            form: dict[str, Any] = {
                key: {"AutoModel": "evil.Model"} if key == "auto_map" else "evil/repository"
            }
            for _ in range(depth):
                form = {"inner": [form]}
            yield (
                f"{key} at depth {depth}",
                zipped({**MODEL, "config.json": _json({"model_type": "resnet", **form})}),
            )
    for what, text in (("NaN", b'{"a": NaN}'), ("a key twice", b'{"a": 1, "a": 2}'), ("a list", b"[]"),
                       ("depth", b'{"a":' * 200 + b"1" + b"}" * 200), ("no UTF-8", b'{"a": "\xff"}'),
                       ("nothing", b""), ("half a pair", b'{"a": "\\ud800"}')):  # fmt: skip
        yield f"config.json: {what}", zipped({**MODEL, "config.json": text})
    for form in ({"model_type": "resnet", "hidden_sizes": [10**9], "depths": [1]},
    {"model_type": "../../evil"},
                 {"model_type": ["resnet"]}, {"model_type": "bert", "num_hidden_layers": 10**9},
                 {"model_type": "vit", "id2label": {"0": "a" * 10**6}}, {"model_type": "no_such_family"},
                 {"architectures": ["os.system"], "model_type": "resnet"}):  # fmt: skip
        yield f"config.json: {str(form)[:40]}", zipped({**MODEL, "config.json": _json({**RESNET, **form})})
    for name in (
        "modeling_evil.py",
        "pytorch_model.bin",
        "model.pkl",
        "a.so",
        "run.sh",
        "tf_model.h5",
        "x.ipynb",
        ".git/config",
    ):
        yield f"with {name}", zipped({**MODEL, name: b"import os"})


def vocabularies() -> Iterator[tuple[str, bytes]]:
    config = _json(
        {
            "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 10,
            "hidden_size": 4, "num_hidden_layers": 1, "id2label": {"0": "ant", "1": "bee"},
        }
    )  # fmt: skip
    hostile = {
        "no JSON": b"{", "a list": b"[]", "depth": b'{"model":' * 100 + b"1" + b"}" * 100,
        "NaN": b'{"model": NaN}',
        "ids that lie": _json({"model": {"type": "WordPiece", "vocab": {"[UNK]": 10**12, "a": -1}}}),
        "a pattern that explodes": _json({"pre_tokenizer": {"type": "Split",
        "pattern": {"Regex": "(a+)+$"}}}),
        "an unknown part": _json({"model": {"type": "Evil"}, "post_processor": {"type": "Evil"}}),
        "forbidden": _json({"model": {"type": "WordPiece", "vocab": {}}, "auto_map": {"a": "b"}}),
    }  # fmt: skip
    for what, text in hostile.items():
        yield f"tokenizer.json: {what}", zipped({**MODEL, "config.json": config, "tokenizer.json": text})
    yield "vocab.txt without an end", zipped({**MODEL, "config.json": config, "vocab.txt": b"a" * 3_000_000})
    yield (
        "vocab.txt that is no UTF-8",
        zipped({**MODEL, "config.json": config, "vocab.txt": b"\xff\xfe\n" * 10}),
    )


def graphs() -> Iterator[tuple[str, bytes]]:
    external = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    external.ClearField("raw_data")
    external.data_location = TensorProto.EXTERNAL
    entry = external.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    yield "weights outside the file", _model([_matmul()], [external])
    yield (
        "an operator of a custom domain",
        _model([_matmul(), _node("Evil", ["logits"], ["y"], domain="com.evil")]),
    )
    yield (
        "an operator of com.microsoft",
        _model([_matmul(), _node("Gelu", ["logits"], ["y"], domain="com.microsoft")]),
    )
    body = helper.make_graph([_node("Identity", ["i"], ["o"])], "b", [_value("i")], [_value("o")])
    for kind in ("Loop", "Scan", "SequenceMap"):
        yield f"a {kind}", _model([_matmul(), _node(kind, ["logits"], ["y"], body=body)])
    yield "conditions in conditions", _model([_matmul(), _conditions(12)])
    yield "a recursion of 2,000", _nested_bytes(2000)
    yield (
        "100,001 operators",
        _model([_matmul(), *[_node("Relu", ["logits"], [f"y{n}"]) for n in range(100_001)]]),
    )
    lying = TensorProto(name="w", data_type=FLOAT, dims=[2**40, 2**20], raw_data=b"1234")
    yield "weights that say they are huge", _model([_matmul()], [lying])
    negative = TensorProto(name="w", data_type=FLOAT, dims=[-4, -3], raw_data=bytes(48))
    yield "weights of negative size", _model([_matmul()], [negative])
    odd = TensorProto(name="w", data_type=99, dims=[4, 3], raw_data=bytes(48))
    yield "weights of no type", _model([_matmul()], [odd])
    shape = numpy_helper.from_array(np.array([2**31, 2**10]), "s")
    yield (
        "a constant of terabytes",
        _model([_node("ConstantOfShape", ["s"], ["c"]), _matmul()], [_weight(), shape]),
    )
    yield "a circle", _model([_node("Relu", ["b"], ["a"]), _node("Relu", ["a"], ["b"]), _matmul()])
    yield "an operator that is not there", _model([_matmul(), _node("NoSuchOperator", ["logits"], ["y"])])
    yield (
        "texts for numbers",
        _model(
            [_node("MatMul", ["t", "w"], ["logits"])],
            [
                _weight(),
                TensorProto(name="t", data_type=TensorProto.STRING, dims=[1, 4], string_data=[b"a"] * 4),
            ],
        ),
    )
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    graph = _graph([_matmul()], [_weight()])
    yield "a function of its own", helper.make_model(graph, functions=[function]).SerializeToString()
    model = helper.make_model(graph)
    model.training_info.add()
    yield "training steps", model.SerializeToString()
    whole = _model([_matmul()], [_weight()])
    yield "a graph that is cut off", whole[: len(whole) // 2]
    yield "a graph without operators", helper.make_model(_graph([], [])).SerializeToString()
    yield (
        "an opset of the future",
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9999)]).SerializeToString(),
    )
    yield "noise", bytes(range(256)) * 40
    yield "a script", b"#!/bin/sh\nrm -rf /\n"
    yield "a page", b"<html><script>alert(1)</script></html>"
    yield "a pickle", PICKLE


def _json(form: Any) -> bytes:
    return json.dumps(form).encode()


def _node(kind: str, given: list[str], gives: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, given, gives, **attributes)


def _matmul() -> Any:
    return _node("MatMul", ["x", "w"], ["logits"])


def _value(name: str) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, ["N", 4 if name == "x" else 3])


def _weight() -> Any:
    return numpy_helper.from_array(np.ones((4, 3), np.float32), "w")


def _graph(nodes: list[Any], weights: list[Any]) -> Any:
    return helper.make_graph(nodes, "g", [_value("x")], [_value("logits")], weights)


def _model(nodes: list[Any], weights: list[Any] | None = None) -> bytes:
    graph = _graph(nodes, [_weight()] if weights is None else weights)
    imports = [
        helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", "com.evil", "com.microsoft")
    ]
    raw: bytes = helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()
    return raw


def _conditions(levels: int) -> Any:
    node = _node("Identity", ["logits"], ["deep"])
    for _ in range(levels):
        branch = helper.make_graph([node], "b", [], [_value("deep")])
        node = _node("If", ["logits"], ["deep"], then_branch=branch, else_branch=branch)
        if branch.ByteSize() > 500_000:
            break
    return node


def _nested_bytes(levels: int) -> bytes:
    """A model whose node holds a graph whose node holds a graph, written by hand: no library would."""
    inner = b""
    for _ in range(levels):
        attribute = _field(1, b"then") + _field(6, inner)
        inner = _field(1, _field(4, b"If") + _field(5, attribute))
    return b"\x08\x09" + _field(7, inner)


def _field(number: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
