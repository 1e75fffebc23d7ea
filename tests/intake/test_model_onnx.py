"""Bare ONNX classifiers: of scikit-learn by skl2onnx, of images, and what is refused."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import Invalid, InvalidData, LabelMismatch, ShapeMismatch, UnsafeFormat
from app.intake.model import take
from app.intake.onnx_rules import read_model
from app.services import intake
from app.settings import Settings
from tests.intake.checkpoints import LABELS, options, save_sklearn

FLOAT = TensorProto.FLOAT
Opened = Callable[..., dict[str, Any]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """`opened(model, **options)`: what the child answers to this ONNX file of a table's classifier."""

    def open_file(model: Any, **sent: Any) -> dict[str, Any]:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        (tmp_path / "upload").write_bytes(content)
        (tmp_path / "out").mkdir()
        return take(
            options(**{"task": "tabular_classification", **sent}), [tmp_path / "upload"], tmp_path / "out"
        )

    return open_file


def value(name: str, shape: Sequence[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(
    nodes: Sequence[Any] = (),
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    extra: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> Any:
    """x (N, 4) times w (4, 3): logits (N, 3); with more or other parts."""
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"]), *nodes],
        "g",
        inputs if inputs is not None else [value("x", ["N", 4])],
        outputs if outputs is not None else [value("logits", ["N", 3])],
        [weight, *extra],
    )
    imports = [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), *imports], ir_version=9)


NAMED = {"labels": LABELS}


# ---- scikit-learn


@pytest.mark.parametrize(
    ("model", "parameters"), [("forest", None), ("logistic", 4 * 3 + 3), ("mlp", 8 + 43)]
)
@pytest.mark.parametrize(("labels", "names"), [(LABELS, LABELS), ([7, 8, 10], ["7", "8", "10"])])
def test_a_scikit_learn_model_teaches(
    tmp_path: Path, opened: Opened, model: str, parameters: int | None, labels: list[Any], names: list[str]
) -> None:
    content = save_sklearn(tmp_path / "model.onnx", model, labels).read_bytes()
    answer = opened(content)
    assert (answer["format"], answer["family"], answer["gives"]) == ("onnx", "onnx", ["logits"])
    assert answer["labels"] == names
    assert answer["input"] == {"modality": "vector", "shape": [4]}
    assert answer["details"] == {
        "file": "model.onnx", "input": "X", "output": "probabilities", "output_kind": "probabilities",
    }  # fmt: skip
    assert answer["parameters"] == parameters or (parameters is None and answer["parameters"] > 30)
    assert (tmp_path / "out" / "files" / "model.onnx").read_bytes() == content


def test_a_zip_map_is_refused_with_the_way_out(tmp_path: Path, opened: Opened) -> None:
    content = save_sklearn(tmp_path / "model.onnx", "logistic", options=None).read_bytes()
    with pytest.raises(ShapeMismatch, match=r"ZipMap.*'zipmap': False"):
        opened(content)


def test_a_double_input_is_taken(tmp_path: Path, opened: Opened) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    types = [("X", DoubleTensorType([None, 4]))]
    content = save_sklearn(tmp_path / "model.onnx", "logistic", initial_types=types).read_bytes()
    assert opened(content)["labels"] == LABELS


# ---- inputs, outputs, labels


def test_an_image_classifier_teaches(opened: Opened) -> None:
    weight = numpy_helper.from_array(np.ones((3, 1, 8, 8), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "w"], ["map"]),
            helper.make_node("Flatten", ["map"], ["scores"]),
        ],
        "g",
        [value("pixels", ["N", 1, 8, 8])],
        [value("scores", ["N", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    said = {"mean": [0.5], "std": [0.25]}
    sent = {"task": "image_classification", "output_kind": "logits", **NAMED}
    answer = opened(model, preprocessing=said, **sent)
    assert answer["input"] == {"modality": "image", "shape": [1, 8, 8]}
    assert answer["preprocessing"]["std"] == [0.25]
    assert answer["parameters"] == 3 * 64


def test_open_sizes_need_a_preprocessing(tmp_path: Path, opened: Opened) -> None:
    pooled = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["other"]),
    ]
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "m")
    graph = helper.make_graph(
        pooled, "g", [value("pixels", ["N", 3, "H", "W"])], [value("other", ["N", 2])], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    sent = {"task": "image_classification", "labels": ["a", "b"]}
    with pytest.raises(ShapeMismatch, match="send the whole `preprocessing`"):
        opened(model, **sent)
    (tmp_path / "out" / "files").rmdir()
    (tmp_path / "out").rmdir()
    said = {"channels": 3, "size": [6, 6], "resize": [6, 6], "mean": [0, 0, 0], "std": [1, 1, 1]}
    answer = opened(model, preprocessing=said, **sent)
    assert answer["input"] == {"modality": "image", "shape": [3, 6, 6]}
    assert answer["details"]["output_kind"] == "logits"


def test_the_output_can_be_named(opened: Opened) -> None:
    model = linear(
        [helper.make_node("Softmax", ["logits"], ["scaled"])],
        outputs=[value("logits", ["N", 3]), value("scaled", ["N", 3])],
    )
    answer = opened(model, output="scaled", **NAMED)
    assert (answer["details"]["output"], answer["details"]["output_kind"]) == ("scaled", "probabilities")


LOGITS = value("logits", ["N", 3])
NEGATED = helper.make_node("Neg", ["logits"], ["y"])


def renamed(kind: str) -> Any:
    return linear([helper.make_node(kind, ["logits"], ["y"])], outputs=[value("y", ["N", 3])])


@pytest.mark.parametrize(
    ("model", "sent", "error", "pointer"),
    [
        (linear(), {}, Invalid, "/labels"),
        (linear(), {"labels": ["a", "b"]}, LabelMismatch, "/labels"),
        (linear(), {**NAMED, "task": None}, Invalid, "/task"),
        (linear(), {**NAMED, "task": "image_classification"}, ShapeMismatch, "/file"),
        (linear(), {**NAMED, "output": "x"}, ShapeMismatch, "/output"),
        (linear(), {**NAMED, "output_kind": "probabilities"}, Invalid, "/output_kind"),
        (renamed("Sigmoid"), NAMED, Invalid, "/output_kind"),
        (renamed("Log"), {**NAMED, "output_kind": "logits"}, InvalidData, "/file"),  # log 0
        (linear(inputs=[value("x", [1, 4])]), NAMED, ShapeMismatch, "/file"),
        (linear(inputs=[value("x", ["N", 5])]), NAMED, InvalidData, "/file"),
        (linear(inputs=[value("x", ["N", "F"])]), NAMED, ShapeMismatch, "/file"),
        (linear(inputs=[value("x", ["N", 4]), value("z", ["N", 4])]), NAMED, ShapeMismatch, "/file"),
        (linear(inputs=[value("x", ["N", 4], TensorProto.FLOAT16)]), NAMED, Invalid, "/file"),
        (linear([NEGATED], outputs=[LOGITS, value("y", ["N", 3])]), NAMED, ShapeMismatch, "/output"),
        (linear(outputs=[value("logits", ["N", 3, 1])]), NAMED, Invalid, "/output"),
    ],
    ids=range(15),
)  # fmt: skip
def test_what_does_not_fit_is_pointed_at(
    opened: Opened, model: Any, sent: dict[str, Any], error: type[Invalid], pointer: str
) -> None:
    with pytest.raises(error) as caught:
        opened(model, **sent)
    assert caught.value.faults[0].pointer == pointer
    assert caught.value.faults[0].fix


# ---- safety


def with_external(place: str) -> Any:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "b")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    if place == "initializer":
        return linear(extra=[tensor])
    if place == "attribute":
        return linear([helper.make_node("Constant", [], ["c"], value=tensor)])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)], "b", [], [value("c", [3])]
    )
    condition = numpy_helper.from_array(np.array(True), "yes")
    node = helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)
    return linear([node], extra=[condition])


def nested(node: Any, depth: int = 1) -> Any:
    """The node inside so many conditions."""
    for _ in range(depth):
        branch = helper.make_graph([node], "b", [], [value(node.output[0], [3])])
        node = helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)
    return linear([node], extra=[numpy_helper.from_array(np.array(True), "yes")])


def with_function() -> Any:
    model = linear([helper.make_node("Twice", ["logits"], ["y"], domain="mine")], domains=["mine"])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    )
    return model


def looping(kind: str) -> Any:
    body = helper.make_graph([], "b", [value("i", [3])], [value("i", [3])])
    return linear([helper.make_node(kind, ["logits"], ["y"], body=body, num_scan_inputs=1)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_external("initializer"), "outside the file"),
        (with_external("attribute"), "outside the file"),
        (with_external("branch"), "outside the file"),
        (linear([helper.make_node("Gelu", ["logits"], ["y"], domain="com.microsoft")]), "'com.microsoft'"),
        (nested(helper.make_node("Evil", [], ["c"], domain="evil.ops")), "'Evil' of the domain 'evil.ops'"),
        (
            nested(helper.make_node("Constant", [], ["c"], value_float=1.0), depth=9),
            "nested more than 8 deep",
        ),
        (looping("Loop"), "uses Loop"),
        (looping("Scan"), "uses Scan"),
        (looping("SequenceMap"), "uses SequenceMap"),
        (with_function(), "functions of its own"),
        (
            linear([helper.make_node("Neg", ["logits"], [f"y{i}"]) for i in range(100_000)]),
            "more than 100,000",
        ),
    ],
    ids=range(11),
)
def test_unsafe_graphs_are_refused_before_they_run(opened: Opened, model: Any, message: str) -> None:
    with pytest.raises(UnsafeFormat, match=message):
        opened(model, **NAMED)


def test_a_file_of_more_than_a_gibibyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, 1024**3 + 1)  # it takes no room, and reading it would take all of it
    with pytest.raises(UnsafeFormat, match="more than 1,073,741,824 bytes"):
        read_model(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 100, b"hello", b"\x08\x09", linear().SerializeToString()[:-20],
        linear([helper.make_node("NoSuchOperator", ["logits"], ["y"])]).SerializeToString(),
    ],
    ids=["zeros", "text", "empty", "cut", "unknown operator"],
)  # fmt: skip
def test_broken_files_are_told_without_paths(opened: Opened, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidData) as caught:
        opened(content, **NAMED)
    assert str(tmp_path) not in caught.value.detail
    assert "/" not in caught.value.detail.replace("config.json and model", "")


def test_a_real_model_is_accepted_by_the_checker_of_onnx(tmp_path: Path) -> None:
    onnx.checker.check_model(str(save_sklearn(tmp_path / "model.onnx")))


def test_a_graph_that_wants_all_memory_ends_with_its_child(tmp_path: Path, settings: Settings) -> None:
    size = numpy_helper.from_array(np.array([200_000, 200_000]), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["logits", "sum"], ["y"]),
    ]
    model = linear(nodes, outputs=[value("y", ["N", 3])], extra=[size])
    (tmp_path / "upload").write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    sent = {key: value for key, value in options(**NAMED).items() if key != "limits"}
    sent["task"] = "tabular_classification"
    with pytest.raises(InvalidData, match=r"does not run on zeros|more memory"):
        intake.run(settings, "model", [tmp_path / "upload"], sent, tmp_path / "out")


# ---- regressors


@pytest.mark.parametrize("name", ["RandomForestRegressor", "GradientBoostingRegressor", "LinearRegression"])
def test_a_regressor_of_scikit_learn_answers_one_number_in_the_data_s_unit(opened: Opened, name: str) -> None:
    import sklearn.ensemble
    import sklearn.linear_model
    from skl2onnx import to_onnx
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    rows = data.data.astype(np.float32)
    family = getattr(sklearn.ensemble, name, None) or getattr(sklearn.linear_model, name)
    model = family(**({} if name == "LinearRegression" else {"n_estimators": 5})).fit(rows, data.target)
    content = to_onnx(model, rows[:1], target_opset=18).SerializeToString()
    answer = opened(content, task="tabular_regression")
    assert answer["labels"] == ["value"]
    assert answer["input"] == {"modality": "vector", "shape": [10]}
    assert answer["details"] == {
        "file": "model.onnx", "input": "X", "output": "variable", "output_kind": "value",
    }  # fmt: skip
    assert answer["preprocessing"]["target"] == {"mean": 0.0, "std": 1.0}
    assert answer["parameters"] > 0


def test_a_regressor_is_told_by_one_name_and_has_no_kind_of_output(opened: Opened) -> None:
    weight = numpy_helper.from_array(np.ones((4, 1), np.float32), "v")
    more = [helper.make_node("MatMul", ["x", "v"], ["price"])]
    one = linear(more, outputs=[value("price", ["N", 1])], extra=[weight])
    assert opened(one, task="tabular_regression", labels=["price"])["labels"] == ["price"]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"labels": ["a", "b"]}, "answers one number"),
        ({"output_kind": "logits"}, "neither logits nor probabilities"),
        ({"output": "logits"}, "not clear which output"),
    ],
)
def test_what_is_no_regressor_is_refused(opened: Opened, sent: dict[str, Any], message: str) -> None:
    weight = numpy_helper.from_array(np.ones((4, 1), np.float32), "v")
    more = [helper.make_node("MatMul", ["x", "v"], ["price"])]
    outputs = [value("price", ["N", 1]), value("logits", ["N", 3])]
    two = linear(more, outputs=outputs, extra=[weight])
    with pytest.raises(Invalid, match=message):
        opened(two, **{"task": "tabular_regression", "output": "price", **sent})
