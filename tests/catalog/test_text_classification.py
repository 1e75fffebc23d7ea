"""Texts become the ids that transformers makes of them, and plain transformers opens a student of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from app.catalog.base import Bundle, Column, Task
from app.catalog.spec import ARCHITECTURES, EXPORTS
from app.catalog.tasks.text_classification import TextClassification
from app.catalog.tasks.text_classification.preprocessing import Preprocessing
from app.errors import Invalid, InvalidData
from tests import texts

TASK = TextClassification()
SHA = "5" * 64
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
WORDS = Column(type="text")
KIND = Column(type="category", counts={"a": 3})


def preprocessing(**changes: Any) -> Preprocessing:
    fields = {
        "column": "text", "tokenizer": SHA, "vocabulary": texts.WORDS, "pad": 0, "max_length": 32,
        "special_tokens": SPECIAL,
    }  # fmt: skip
    return Preprocessing.model_validate(fields | changes)


def encoder(form: Preprocessing) -> Any:
    content = texts.wordpiece() if form.pad == 0 else texts.byte_level()
    return TASK.encoder(form, lambda _, open_bytes: open_bytes(content.encode()))


# ---- what is read


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_ids_are_those_of_transformers(tmp_path: Path, pad: int, side: str) -> None:
    import transformers

    folder = texts.save_classifier(tmp_path, "roberta" if pad else "bert")
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side)
    encode = encoder(preprocessing(pad=pad, cut=side))
    samples = [text for text, _ in texts.rows()[-200:]] + [
        "",
        " \n",
        "naïve 京都 😀",
        "x" * 5000,
        "[CLS] [SEP]",
    ]
    for text in samples:
        wanted = theirs(text, padding="max_length", truncation=True, max_length=32)["input_ids"]
        ids = encode(text)
        assert (ids.dtype, ids.shape) == (np.int32, (32,))
        np.testing.assert_array_equal(ids, wanted)
    assert any(len(theirs(text)["input_ids"]) > 32 for text in samples)


def test_a_row_is_read_by_its_column_and_nothing_is_an_empty_text() -> None:
    encode = encoder(preprocessing())
    np.testing.assert_array_equal(encode({"text": "a file", "other": 1}), encode("a file"))
    np.testing.assert_array_equal(encode({"text": None}), encode(""))
    for row, message in (({"body": "x"}, "lacks the column 'text'; it has 'body'"), (7, "needed, not '7'")):
        with pytest.raises(InvalidData, match=message):
            encode(row)


def test_a_text_that_leaves_no_token_is_refused() -> None:
    """A tokenizer without special tokens makes nothing of nothing, and a model could not look at it."""
    document = json.loads(texts.wordpiece()) | {"post_processor": None}
    encode = TASK.encoder(preprocessing(), lambda _, open_bytes: open_bytes(json.dumps(document).encode()))
    assert encode("file").any()
    with pytest.raises(InvalidData, match="nothing that the tokenizer reads"):
        encode(" ")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_batch_is_as_long_as_its_longest_row(kind: str) -> None:
    form = preprocessing()
    encode = encoder(form)
    rows = np.stack([encode("open the file"), encode("a")])
    batch = TASK.normalize(rows if kind == "numpy" else torch.from_numpy(rows), form)
    assert batch.shape == (2, 8)
    assert str(batch.dtype).endswith("int64")
    np.testing.assert_array_equal(np.asarray(batch), rows[:, :8])
    mask = TASK.token_mask(batch, form)
    assert mask.shape == (2, 8)
    assert mask.sum() == (rows != 0).sum()
    assert TASK.normalize(np.stack([encode("long " * 100)]), form).shape == (1, 32)
    assert TASK.normalize(np.stack([encode("file " * 7)]), form).shape == (1, 16)


# ---- what the plan asks


def test_the_one_column_of_text_is_found() -> None:
    assert TASK.input_columns({"text": WORDS, "kind": KIND, "label": KIND}, "label") == ["text"]
    assert TASK.input_columns({"word": KIND, "label": KIND}, "label") == ["word"]
    for columns, message in (
        ({"text": WORDS, "title": WORDS}, "2 columns of text"),
        ({"size": Column(type="number")}, "no column of text"),
    ):
        with pytest.raises(InvalidData, match=message):
            TASK.input_columns(columns, None)
    with pytest.raises(InvalidData, match="exactly one column of text"):
        TASK.bind(preprocessing(), {"size": Column(type="number")}, ["size"])


@pytest.mark.parametrize(
    ("limit", "wanted", "length"), [(512, "auto", 128), (32, "auto", 32), (512, 64, 64), (32, 64, 32)]
)
def test_student_and_teacher_read_equally_much(limit: int, wanted: Any, length: int) -> None:
    task = TextClassification(max_length=wanted)
    teacher = preprocessing(column="", max_length=limit)
    bound = task.bind(teacher, {"body": WORDS}, ["body"])
    student = task.preprocessing({"body": WORDS}, ["body"], teacher.model_dump(mode="json"))
    assert bound == student
    assert (student.column, student.max_length) == ("body", length)
    assert task.decided(student).max_length == length
    assert task.input(student).model_dump(mode="json") == {
        "modality": "text", "shape": [length], "vocabulary": texts.WORDS, "pad": 0,
    }  # fmt: skip


def test_a_student_needs_a_tokenizer() -> None:
    with pytest.raises(Invalid, match="needs a tokenizer") as caught:
        TASK.preprocessing({"text": WORDS}, ["text"], None)
    assert caught.value.faults[0].pointer == "/teachers/0"


# ---- what leaves

TINY: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24},
    "like_teacher": {"layers": 1},
}


@pytest.fixture(scope="module", params=sorted(TINY))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """Every export of one student, in one folder."""
    folder, stored = tmp_path_factory.mktemp(request.param), tmp_path_factory.mktemp("stored")
    task: Task = TASK.decided(preprocessing())
    architecture = ARCHITECTURES[request.param].model_validate(TINY[request.param])
    pad = 0
    if request.param == "like_teacher":  # one whose positions are counted from the padding on
        pad = 1
        config = texts.save_classifier(stored / "teacher", "roberta") / "config.json"
        architecture = architecture.resolve(json.loads(config.read_bytes()), 10**6)
    form = preprocessing(pad=pad, special_tokens={"pad_token": "<pad>"} if pad else SPECIAL)
    (stored / SHA).write_text(texts.byte_level() if pad else texts.wordpiece())
    torch.manual_seed(0)
    student = architecture.build(task.input(form), texts.LABELS).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encode = encoder(form)
    sample = task.normalize(np.stack([encode(text) for text, _ in texts.rows()[:40]]), form)
    bundle = Bundle(student, architecture, task, form, task.input(form), texts.LABELS, sample, stored)
    for kind in ("safetensors", "onnx", "onnx_int8"):
        assert architecture.exports >= {kind}
        names = EXPORTS[kind].model_validate({}).write(bundle, folder)
        assert "tokenizer.json" in names
        assert all((folder / name).stat().st_size > 0 for name in names)
    return bundle, folder


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_an_exact_format_gives_torch_s_logits_at_every_size(written: tuple[Bundle, Path], kind: str) -> None:
    bundle, folder = written
    run, tolerance = EXPORTS[kind].model_validate({}).run(bundle, folder), EXPORTS[kind].tolerance
    assert tolerance
    for rows, tokens in ((1, 8), (3, 16), (40, 32), (2, 9)):
        ids = bundle.sample[:rows, :tokens]
        with torch.no_grad():
            wanted = bundle.student(torch.from_numpy(ids)).logits.numpy()
        assert np.abs(run(ids) - wanted).max() <= tolerance


def test_eight_bits_are_smaller_and_close(written: tuple[Bundle, Path]) -> None:
    bundle, folder = written
    run = EXPORTS["onnx_int8"].model_validate({}).run(bundle, folder)
    with torch.no_grad():
        exact = bundle.student(torch.from_numpy(bundle.sample)).logits.numpy()
    assert np.abs(run(bundle.sample) - exact).mean() < 0.15 * exact.std()
    weights = 4 * sum(parameter.numel() for parameter in bundle.student.parameters())
    spared = (folder / "model.onnx").stat().st_size - (folder / "model.int8.onnx").stat().st_size
    assert spared > weights / 2  # the table of tokens too, which is most of it


def test_the_onnx_file_takes_ids_alone(written: tuple[Bundle, Path]) -> None:
    _, folder = written
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, answer.name) == ("input_ids", "tensor(int64)", "logits")
        assert given.shape == ["batch", "tokens"]
        assert json.loads(session.get_modelmeta().custom_metadata_map["task"])["max_length"] == 32


def test_plain_transformers_opens_the_folder(written: tuple[Bundle, Path]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    bundle, folder = written
    auto: Any = AutoModelForSequenceClassification
    model, reads = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    sentences = [text for text, _ in texts.rows()[:8]] + [""]
    batch = reads(sentences, padding=True, truncation=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].shape[1] <= 32
    encode = encoder(bundle.preprocessing)
    ours = bundle.task.normalize(np.stack([encode(text) for text in sentences]), bundle.preprocessing)
    with torch.no_grad():
        wanted = bundle.student(torch.from_numpy(ours)).logits
        np.testing.assert_allclose(model(**batch).logits.numpy(), wanted.numpy(), rtol=0, atol=1e-5)
    assert [model.config.id2label[place] for place in range(5)] == texts.LABELS
