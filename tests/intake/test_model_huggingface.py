"""Archives of Hugging Face folders: what is taken, and what is refused before anything of it could run."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid, InvalidData, LabelMismatch, ShapeMismatch, UnsafeFormat
from app.intake.model import take
from tests.intake.checkpoints import (
    LABELS,
    changed,
    contents,
    options,
    pack,
    pytorch_file,
    save_convnext,
    save_resnet,
    save_vit,
)

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return contents(save_resnet(tmp_path_factory.mktemp("resnet")))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`opened(files, prefix, **options)`: what the child answers to an archive of these files."""

    def open_archive(files: Files, prefix: str = "", **sent: Any) -> dict[str, Any]:
        (tmp_path / "out").mkdir()
        return take(options(**sent), [pack(tmp_path / "upload", files, prefix)], tmp_path / "out")

    return open_archive


Opened = Callable[..., dict[str, Any]]


# ---- what is taken


@pytest.mark.parametrize(
    ("save", "family", "gives"),
    [
        (save_resnet, "resnet", ["features", "logits"]),
        (save_vit, "vit", ["attentions", "features", "logits", "values"]),
        (save_convnext, "convnext", ["features", "logits"]),
    ],
)
def test_a_folder_tells_what_it_is(
    tmp_path: Path, opened: Opened, save: Callable[[Path], Path], family: str, gives: list[str]
) -> None:
    import transformers

    folder = save(tmp_path / "saved")
    answer = opened(contents(folder), prefix="checkpoint/")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert (answer["format"], answer["family"], answer["task"]) == (
        "huggingface",
        family,
        "image_classification",
    )
    assert answer["labels"] == LABELS
    assert answer["gives"] == gives
    assert answer["input"] == {"modality": "image", "shape": [1, 8, 8]}
    assert answer["preprocessing"]["std"] == [0.25]
    assert answer["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert answer["details"]["config"]["model_type"] == family
    assert "id2label" not in answer["details"]["config"]
    assert answer["warnings"] == []
    assert contents(tmp_path / "out" / "files") == contents(folder)


def test_shards_count_as_one_model(tmp_path: Path, opened: Opened) -> None:
    import transformers

    folder = save_resnet(tmp_path / "saved", max_shard_size="2KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    answer = opened(contents(folder))
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert answer["parameters"] == sum(weight.numel() for weight in model.parameters())


def test_a_tar_is_taken_as_well(tmp_path: Path, resnet: Files) -> None:
    with tarfile.open(tmp_path / "upload", "w:gz") as archive:
        for name, content in resnet.items():
            info = tarfile.TarInfo("./top/" + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "out").mkdir()
    assert take(options(), [tmp_path / "upload"], tmp_path / "out")["labels"] == LABELS


def test_what_does_not_matter_is_left_out(tmp_path: Path, resnet: Files, opened: Opened) -> None:
    extra = {".DS_Store": b"x", "._config.json": b"x", ".gitattributes": b"x", "README.md": b"# A model"}
    answer = opened({**resnet, **extra, "model.onnx": b"x"})
    assert set(contents(tmp_path / "out" / "files")) == {*resnet, "README.md"}
    assert "model.onnx" in answer["warnings"][0]


def test_names_that_the_config_lacks_can_be_sent(tmp_path: Path, opened: Opened) -> None:
    files = contents(save_resnet(tmp_path / "saved", labels=["LABEL_0", "LABEL_1", "LABEL_2"]))
    assert opened(files, labels=["x", "y", "z"])["warnings"] == []


def test_missing_names_are_told(tmp_path: Path, opened: Opened) -> None:
    two = contents(save_resnet(tmp_path / "saved", labels=["LABEL_0", "LABEL_1"]))
    assert "id2label" not in json.loads(two["config.json"])  # transformers leaves its default out
    answer = opened(two)
    assert answer["labels"] == ["LABEL_0", "LABEL_1"]
    assert "Send `labels`" in answer["warnings"][0]


# ---- what is refused


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "training_args.bin", "model.pkl",
        "model.joblib",
        "tf_model.h5", "model.keras", "flax_model.msgpack", "stats.npy", "stats.npz", "saved_model.pb",
        "modeling_resnet.py", "native.so", "setup.sh", "notebook.ipynb",
        "adapter_config.json", "generation_config.json", "adapter_model.safetensors", "sub/model.safetensors",
        "notes.txt", "archive/data.pkl", "CONFIG.JSON", "model-1-of-2.safetensors", "config.json.bak",
    ],
)  # fmt: skip
def test_files_that_are_not_on_the_list_are_refused(resnet: Files, opened: Opened, name: str) -> None:
    with pytest.raises(UnsafeFormat) as caught:
        opened({**resnet, name: b"x"})
    assert name in caught.value.detail
    assert caught.value.faults[0].fix


def test_a_pytorch_file_is_told_from_an_archive(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(pytorch_file())
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsafeFormat, match=r"data\.pkl.*can run code"):
        take(options(), [tmp_path / "upload"], tmp_path / "out")


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"\x80\x04\x95", UnsafeFormat), (b"\x89HDF\r\n", UnsafeFormat), (b"\x93NUMPY", UnsafeFormat),
        (b"GGUF\x03\x00", InvalidData), (b"", InvalidData), (b"\x02\0\0\0\0\0\0\0{}", InvalidData),
    ],
    ids=["pickle", "hdf5", "numpy", "gguf", "empty", "safetensors"],
)  # fmt: skip
def test_single_files_of_other_formats_are_refused(tmp_path: Path, head: bytes, error: type[Invalid]) -> None:
    (tmp_path / "upload").write_bytes(head)
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=r"config\.json|one \.onnx"):
        take(options(task="image_classification"), [tmp_path / "upload"], tmp_path / "out")


CODE_BEARING = (
    "auto_map", "attn_implementation", "_attn_implementation", "experts_implementation",
    "quantization_config", "use_timm_backbone", "backbone", "use_pretrained_backbone", "custom_pipelines",
)  # fmt: skip


@pytest.mark.parametrize("key", CODE_BEARING)
def test_keys_that_load_something_else_are_refused_at_any_depth(
    resnet: Files, opened: Opened, key: str
) -> None:
    document = changed(resnet["config.json"], inner=[{"deep": {key: "x"}}])
    with pytest.raises(UnsafeFormat, match=rf"^config\.json holds '/inner/0/deep/{key}'"):
        opened({**resnet, "config.json": document})


@pytest.mark.parametrize("file", ["preprocessor_config.json", "tokenizer_config.json"])
def test_such_keys_are_refused_in_every_file(resnet: Files, opened: Opened, file: str) -> None:
    document = changed(resnet.get(file, b"{}"), auto_map={"AutoImageProcessor": "m.M"})
    with pytest.raises(UnsafeFormat, match=f"^{file} holds '/auto_map'"):
        opened({**resnet, file: document})


def test_an_escaped_key_is_the_same_key(resnet: Files, opened: Opened) -> None:
    document = resnet["config.json"].replace(b"{", b'{"\\u0061uto_map": {"AutoModel": "m.M"},', 1)
    with pytest.raises(UnsafeFormat, match="auto_map"):
        opened({**resnet, "config.json": document})


def test_keys_that_ask_for_nothing_pass(resnet: Files, opened: Opened) -> None:
    config = changed(resnet["config.json"], backbone=None, use_timm_backbone=False)
    opened({**resnet, "config.json": config, "vocab.json": b'{"backbone": 7}'})


@pytest.mark.parametrize(
    "config",
    [
        b"", b"[]", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}', b'{"\\u0000": 1}', b'{"a": "\xff"}', b'{"a": 99999999999999999999}',
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=range(15),
)  # fmt: skip
def test_json_with_two_meanings_or_none_is_refused(resnet: Files, opened: Opened, config: bytes) -> None:
    with pytest.raises(InvalidData, match=r"^config\.json cannot be read"):
        opened({**resnet, "config.json": config})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["ResNetModel"]}, "ForImageClassification"),
        ({"architectures": ["BertForSequenceClassification"]}, "no tokenizer.json"),
        ({"architectures": ["ResNetForImageClassification", "ResNetModel"]}, "ForImageClassification"),
        ({"architectures": None}, "ForImageClassification"),
        ({"architectures": "ResNetForImageClassification"}, "ForImageClassification"),
        ({"architectures": ["x.y.EvilForImageClassification"]}, "ForImageClassification"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "../resnet"}, "model_type"),
        ({"problem_type": "regression"}, "single_label_classification"),
        ({"problem_type": "multi_label_classification"}, "single_label_classification"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "without a gap"),
        ({"id2label": ["a", "b", "c"]}, "without a gap"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "stands twice"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, "Label 2 is not a text"),
        ({"id2label": {"0": "a", "1": "b", "2": " "}}, "Label 2 is not a text"),
        ({"id2label": {"0": "a", "1": "b"}}, "has 3 rows, but there are 2 labels"),
        ({"id2label": {}}, "at least 2 classes"),
        ({"num_channels": 4}, "num_channels"),
    ],
)
def test_configs_of_other_models_are_refused(
    resnet: Files, opened: Opened, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        opened({**resnet, "config.json": changed(resnet["config.json"], **fields)})


@pytest.mark.parametrize(
    ("labels", "error"),
    [(["a", "b"], LabelMismatch), (["a", "b", "b"], Invalid), (["a", "b", ""], Invalid), (["a"], Invalid)],
)
def test_labels_must_fit_the_head(
    resnet: Files, opened: Opened, labels: list[str], error: type[Invalid]
) -> None:
    with pytest.raises(error) as caught:
        opened(resnet, labels=labels)
    assert caught.value.faults[0].pointer == "/labels"


def test_the_head_must_fit_the_config(tmp_path: Path, resnet: Files, opened: Opened) -> None:
    other = contents(save_resnet(tmp_path / "saved", labels=["a", "b", "c", "d"]))
    with pytest.raises(ShapeMismatch, match="has 4 rows, but there are 3 labels"):
        opened({**resnet, "model.safetensors": other["model.safetensors"]})


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_what_is_missing_is_named(resnet: Files, opened: Opened, missing: str) -> None:
    with pytest.raises(InvalidData, match="no config.json" if missing == "config.json" else "no weights"):
        opened({name: content for name, content in resnet.items() if name != missing})


def test_shards_must_be_all_and_only_those_of_the_index(tmp_path: Path, resnet: Files) -> None:
    files = contents(save_resnet(tmp_path / "saved", max_shard_size="2KB"))
    index, first = "model.safetensors.index.json", min(name for name in files if name.startswith("model-"))
    spoiled: list[Files] = [
        {name: content for name, content in files.items() if name != index},
        {name: content for name, content in files.items() if name != first},
        {**files, "model.safetensors": resnet["model.safetensors"]},
        {**files, index: changed(files[index], weight_map={})},
        {**files, index: changed(files[index], weight_map={"x": "../../etc/passwd"})},
    ]
    for number, case in enumerate(spoiled):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        with pytest.raises(InvalidData, match="shards"):
            take(options(), [pack(tmp_path / f"upload-{number}", case)], out)


@pytest.mark.parametrize("field", ["preprocessing", "output", "output_kind"])
def test_fields_of_onnx_files_do_not_fit_a_folder(resnet: Files, opened: Opened, field: str) -> None:
    with pytest.raises(Invalid, match=f"Leave `{field}` out") as caught:
        opened(resnet, **{field: {} if field == "preprocessing" else "x"})
    assert caught.value.faults[0].pointer == f"/{field}"


@pytest.mark.parametrize("task", ["tabular_classification", "poetry"])
def test_a_task_that_does_not_fit_is_refused(resnet: Files, opened: Opened, task: str) -> None:
    with pytest.raises(Invalid) as caught:
        opened(resnet, task=task)
    assert caught.value.faults[0].pointer == "/task"


def test_weights_that_are_fewer_than_the_config_asks_for_are_refused(opened: Opened, resnet: Files) -> None:
    from safetensors.numpy import load, save

    tensors = load(resnet["model.safetensors"])
    for name in [name for name in tensors if name.endswith("convolution.weight")][:2]:
        del tensors[name]
    with pytest.raises(
        ShapeMismatch, match=r"weights hold .* parameters, but config.json asks for"
    ) as caught:
        opened(resnet | {"model.safetensors": save(tensors)})
    assert "save_pretrained" in caught.value.faults[0].fix


def test_sizes_other_than_the_weights_are_refused(opened: Opened, resnet: Files) -> None:
    with pytest.raises(ShapeMismatch, match="asks for"):
        opened(resnet | {"config.json": changed(resnet["config.json"], hidden_sizes=[8, 16])})


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_sizes", "x"), ("depths", [-1, 1]), ("embedding_size", 0.5)]
)
def test_a_size_that_is_none_is_named(opened: Opened, resnet: Files, field: str, value: Any) -> None:
    with pytest.raises(InvalidData, match=f"config.json says {field} .*whole number"):
        opened(resnet | {"config.json": changed(resnet["config.json"], **{field: value})})


@pytest.mark.parametrize(
    "fields", [{"hidden_act": "gelu_new"}, {"depths": None}, {"hidden_sizes": [4, 2**18]}]
)
def test_what_our_own_form_does_not_cover_is_left_to_the_loader(
    opened: Opened, resnet: Files, fields: dict[str, Any]
) -> None:
    assert opened(resnet | {"config.json": changed(resnet["config.json"], **fields)})["family"] == "resnet"


def test_a_mobilenet_is_counted_as_transformers_builds_it(tmp_path: Path, opened: Opened) -> None:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_channels=1, depth_multiplier=0.25, image_size=32)
    MobileNetV2ForImageClassification(config).save_pretrained(tmp_path / "saved")
    size = {"do_resize": True, "size": {"height": 32, "width": 32}, "do_rescale": True, "do_normalize": False}
    (tmp_path / "saved" / "preprocessor_config.json").write_text(json.dumps(size))
    assert opened(contents(tmp_path / "saved"))["family"] == "mobilenet_v2"


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "upload").touch()
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidData, match="The file is empty") as caught:
        take(options(), [tmp_path / "upload"], tmp_path / "out")
    assert caught.value.faults[0].pointer == "/file"
