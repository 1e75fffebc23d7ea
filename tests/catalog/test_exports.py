"""Files that leave compute what the student computes, for whoever opens them with plain libraries."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from app.catalog import onnx_file
from app.catalog.base import Bundle, Task
from app.catalog.spec import ARCHITECTURES, EXPORTS, TASKS
from app.catalog.tabular import Feature, Preprocessing
from app.catalog.tasks.image_classification.preprocessing import plain

LABELS = ["naught", "one", "tèn"]
TINY: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
    "vit": {
        "patch_size": 8,
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 20,
    },
    "convnext": {"hidden_sizes": [8, 12], "depths": [1, 1], "layer_scale_init_value": 0.5},
    "mobilenet_v2": {"depth_multiplier": 0.1, "output_stride": 8, "finegrained_output": False},
    "mlp": {"hidden_sizes": [9, 5], "dropout": 0.5},
}
ROWS = 40


def bundle_of(kind: str) -> Bundle:
    """A student with weights that matter and running statistics that are not the initial ones."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES[kind].model_validate(TINY[kind])
    task: Task = TASKS["tabular_classification" if kind == "mlp" else "image_classification"].model_validate(
        {}
    )
    names = (
        Feature(name="a", mean=1.0),
        Feature(name="b"),
        Feature(name="c", kind="category", values=("x", "y")),
    )
    preprocessing: Any = Preprocessing(features=names) if kind == "mlp" else plain(1, (16, 16))
    shape = task.input(preprocessing)
    student = architecture.build(shape, LABELS)
    sample = np.random.default_rng(0).standard_normal((ROWS, *shape.shape)).astype(np.float32)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        student.train()(torch.from_numpy(sample))
    return Bundle(student.eval(), architecture, task, preprocessing, shape, LABELS, sample)


def by_torch(bundle: Bundle, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(bundle.student(torch.from_numpy(batch)).logits)


@pytest.fixture(scope="module", params=sorted(TINY))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """Every export of one family, in one folder."""
    bundle, folder = bundle_of(request.param), tmp_path_factory.mktemp(request.param)
    for kind in ("safetensors", "onnx", "onnx_int8"):
        names = EXPORTS[kind].model_validate({}).write(bundle, folder)
        assert all((folder / name).stat().st_size > 0 for name in names)
    return bundle, folder


def test_a_family_says_which_exports_it_was_verified_with(written: tuple[Bundle, Path]) -> None:
    bundle, _ = written
    assert bundle.architecture.exports == set(EXPORTS)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_an_exact_format_gives_torch_s_logits(written: tuple[Bundle, Path], kind: str, rows: int) -> None:
    bundle, folder = written
    export = EXPORTS[kind].model_validate({})
    assert export.tolerance is not None
    difference = np.abs(
        export.run(bundle, folder)(bundle.sample[:rows]) - by_torch(bundle, bundle.sample[:rows])
    )
    assert difference.shape == (rows, len(LABELS))
    assert difference.max() <= export.tolerance


def test_eight_bits_are_smaller_and_close(written: tuple[Bundle, Path]) -> None:
    bundle, folder = written
    model = onnx.load(folder / "model.int8.onnx")
    onnx.checker.check_model(model)
    operators = {node.op_type for node in model.graph.node}
    static = bundle.architecture.quantization == "static"
    assert ("QuantizeLinear" in operators) is static
    assert ("DynamicQuantizeLinear" in operators) is not static
    small, exact = (
        EXPORTS["onnx_int8"].model_validate({}).run(bundle, folder)(bundle.sample),
        by_torch(bundle, bundle.sample),
    )
    spread = exact.std()
    assert np.abs(small - exact).mean() < 0.15 * spread
    assert (small.argmax(-1) == exact.argmax(-1)).mean() >= 0.8


def test_plain_onnxruntime_finds_the_names_and_what_they_mean(written: tuple[Bundle, Path]) -> None:
    bundle, folder = written
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, answer.name) == (
            "features" if bundle.input.modality == "vector" else "pixel_values",
            "logits",
        )
        assert given.type == answer.type == "tensor(float)"
        assert isinstance(given.shape[0], str)
        assert tuple(given.shape[1:]) == bundle.input.shape
        assert tuple(answer.shape[1:]) == (len(LABELS),)
        said = session.get_modelmeta().custom_metadata_map
        assert json.loads(said["labels"]) == LABELS
        assert json.loads(said["task"])["kind"] == bundle.task.kind
        assert bundle.task.parse_preprocessing(json.loads(said["preprocessing"])) == bundle.preprocessing
    assert {entry.version for entry in onnx.load(folder / "model.onnx").opset_import if not entry.domain} == {
        onnx_file.OPSET
    }


def test_plain_transformers_opens_the_folder(written: tuple[Bundle, Path]) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    bundle, folder = written
    if bundle.architecture.format != "huggingface":
        assert json.loads((folder / "preprocessing.json").read_text())["features"][0]["name"] == "a"
        return
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    assert [model.config.id2label[place] for place in range(3)] == LABELS
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    batch = processor(pixels[None], return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    ours = bundle.task.normalize(pixels[None, None], bundle.preprocessing)
    np.testing.assert_allclose(batch.numpy(), ours, rtol=0, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(model(batch).logits.numpy(), by_torch(bundle, ours), rtol=0, atol=1e-5)


def test_a_file_that_is_there_is_traced_again_only_when_the_weights_have_changed(tmp_path: Path) -> None:
    bundle, path = bundle_of("mlp"), tmp_path / "model.onnx"
    one_row = replace(bundle, sample=bundle.sample[:1])
    onnx_file.write(one_row, path)
    before = path.stat().st_mtime_ns
    onnx_file.write(bundle, path)
    assert path.stat().st_mtime_ns == before
    with torch.no_grad():
        next(bundle.student.parameters()).add_(1)
    onnx_file.write(one_row, path)
    assert np.abs(onnx_file.open_file(path)(bundle.sample) - by_torch(bundle, bundle.sample)).max() < 1e-5


def test_a_format_says_how_many_rows_it_uses() -> None:
    assert EXPORTS["onnx_int8"].model_validate({"calibration_rows": 7}).sample_rows() == 7
    assert EXPORTS["onnx"].model_validate({}).sample_rows() == 2


def test_the_served_formats_are_the_onnx_files() -> None:
    assert {kind for kind, export in EXPORTS.items() if export.serves} == {"onnx", "onnx_int8"}
