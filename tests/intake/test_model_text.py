"""Teachers of texts: a folder tells what it is; a tokenizer that could harm or does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.tasks.text_classification import TextClassification
from app.errors import Invalid, InvalidData, ShapeMismatch, UnsafeFormat
from app.intake import tokenizer_parts
from app.intake.model import take
from tests import texts
from tests.intake.checkpoints import changed, contents, options, pack

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return contents(texts.save_classifier(tmp_path_factory.mktemp("bert") / "saved"))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`opened(files, **options)`: what the child answers to an archive of these files."""

    def open_archive(files: Files, **sent: Any) -> dict[str, Any]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        return take(options(**sent), [pack(tmp_path / "upload", files)], tmp_path / "out")

    return open_archive


Opened = Callable[..., dict[str, Any]]


# ---- what is taken


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "mpnet", "roberta", "deberta-v2"])
def test_a_folder_tells_what_it_is(tmp_path: Path, opened: Opened, kind: str) -> None:
    import transformers

    folder = texts.save_classifier(tmp_path / "saved", kind)
    answer = opened(contents(folder))
    auto: Any = transformers.AutoModelForSequenceClassification
    model, pad = auto.from_pretrained(folder), int(kind in ("roberta", "mpnet"))
    assert (answer["family"], answer["task"]) == (kind, "text_classification")
    assert answer["labels"] == texts.LABELS
    assert answer["gives"] == ["attentions", "features", "logits", "values"]
    assert answer["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert answer["input"] == {"modality": "text", "shape": [32], "vocabulary": texts.WORDS, "pad": pad}
    preprocessing = answer["preprocessing"]
    assert preprocessing["tokenizer"] == sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert len(json.dumps(preprocessing)) < 1000  # the tokenizer itself stands in no row
    assert preprocessing["special_tokens"]["pad_token"] == ("<pad>" if pad else "[PAD]")
    assert answer["warnings"] == []
    assert contents(tmp_path / "out" / "files") == contents(folder)


def test_the_shortest_limit_counts(bert: Files, opened: Opened) -> None:
    said = changed(bert["tokenizer_config.json"], model_max_length=20, truncation_side="left")
    answer = opened(bert | {"tokenizer_config.json": said})
    assert answer["input"]["shape"] == [20]
    assert answer["preprocessing"]["cut"] == "left"


def test_a_vocabulary_of_bert_is_made_a_tokenizer(tmp_path: Path, bert: Files, opened: Opened) -> None:
    """The same ids as those of BERT's own tokenizer in transformers."""
    import transformers

    vocabulary = json.loads(bert["tokenizer.json"])["model"]["vocab"]
    slow = {name: content for name, content in bert.items() if name != "tokenizer.json"}
    slow["vocab.txt"] = "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)).encode()
    slow["tokenizer_config.json"] = b'{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    answer = opened(slow)
    content = (tmp_path / "out" / "files" / "tokenizer.json").read_bytes()
    assert answer["preprocessing"]["tokenizer"] == sha256(content).hexdigest()

    (tmp_path / "slow").mkdir()
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        (tmp_path / "slow" / name).write_bytes(slow[name])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "slow")
    task = TextClassification()
    preprocessing = task.parse_preprocessing(answer["preprocessing"])
    encode = task.encoder(preprocessing, lambda _, open_bytes: open_bytes(content))
    for text, _ in texts.rows()[:50]:
        ids = theirs(text, padding="max_length", truncation=True, max_length=32)["input_ids"]
        np.testing.assert_array_equal(encode(text), ids)


def test_a_token_for_no_limit_is_no_number_too_large(bert: Files, opened: Opened) -> None:
    assert str(int(1e30)).encode() in bert["tokenizer_config.json"]
    assert opened(bert)["input"]["shape"] == [32]


# ---- what is refused


def replaces(expression: Any) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": expression}, "content": ""}


TYPED = {"id": "[CLS]", "type_id": 0}
NINE = {
    "type": "TemplateProcessing", "single": [{"SpecialToken": TYPED}] * 9, "pair": [],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "value", "error", "message"),
    [
        ("normalizer", {"type": "Evil"}, UnsafeFormat, "normalizer 'Evil'"),
        ("normalizer", {"type": ["Evil"]}, UnsafeFormat, "normalizer .*Evil"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}, InvalidData, "fails on"),
        ("normalizer", replaces("(a+)+$"), UnsafeFormat, "expression"),
        ("normalizer", replaces("a*a*a*b"), UnsafeFormat, "expression"),
        ("normalizer", replaces(3), UnsafeFormat, "expression"),
        ("decoder", replaces("(" * 200), UnsafeFormat, "expression"),
        ("decoder", replaces(r"\s" * 100 + "("), UnsafeFormat, "expression"),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99},
            UnsafeFormat,
            "100 parts",
        ),
        ("normalizer", "BertNormalizer", InvalidData, "no object"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "X"}]}, UnsafeFormat, "'X'"),
        ("model", None, InvalidData, "no model"),
        ("model", {"type": "Neural"}, UnsafeFormat, "model 'Neural'"),
        ("model", {"type": "WordPiece", "vocab": [1]}, InvalidData, "none that the tokenizers"),
        ("added_tokens", [{"id": 0}] * 10_001, InvalidData, "added tokens"),
        ("added_tokens", [{"id": "x"}], InvalidData, "none that the tokenizers"),
        ("version", "9.9", InvalidData, "none that the tokenizers"),
        ("post_processor", NINE, InvalidData, "9 special tokens"),
    ],
    ids=range(18),
)
def test_a_tokenizer_of_other_parts_is_refused(
    bert: Files, opened: Opened, section: str, value: Any, error: type[Invalid], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        opened(bert | {"tokenizer.json": changed(bert["tokenizer.json"], **{section: value})})
    assert caught.value.faults[0].fix


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": 0.5}, "dropout"),
        ({"max_input_chars_per_word": 10**9}, "max_input_chars_per_word"),
        ({"max_input_chars_per_word": "many"}, "max_input_chars_per_word"),
        ({"unk_token": "[NONE]"}, "fails on the text"),
    ],
)
def test_a_model_that_reads_badly_is_refused(
    bert: Files, opened: Opened, fields: dict[str, Any], message: str
) -> None:
    document = json.loads(bert["tokenizer.json"])
    document["model"] |= fields
    with pytest.raises(Invalid, match=message):
        opened(bert | {"tokenizer.json": json.dumps(document).encode()})


@pytest.mark.parametrize("expression", [" {2,}", r"\s+", r"[\r\n]", "[^a-z]+", "\u00a0", r"\d{1,3}"])
def test_plain_expressions_pass(expression: str) -> None:
    part = {"type": "Replace", "pattern": {"Regex": expression}, "content": " "}
    tokenizer_parts.check_parts({"normalizer": part, "model": {"type": "BPE"}})


def test_ids_without_an_embedding_are_refused(bert: Files, opened: Opened) -> None:
    document = json.loads(bert["tokenizer.json"])
    document["model"]["vocab"]["extra"] = texts.WORDS
    with pytest.raises(ShapeMismatch, match="token of number 1500, and the model embeds 1500"):
        opened(bert | {"tokenizer.json": json.dumps(document).encode()})
    added = [{"id": 1500, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True}]  # fmt: skip
    document = changed(bert["tokenizer.json"], added_tokens=added)
    with pytest.raises(ShapeMismatch, match="token of number 1500"):
        opened(bert | {"tokenizer.json": document})


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"vocab_size": 1400}, ShapeMismatch, "word_embeddings.* config.json says vocab_size 1400"),
        ({"vocab_size": "many"}, InvalidData, "vocab_size 'many'"),
        ({"max_position_embeddings": 31}, ShapeMismatch, "32 positions"),
        ({"num_hidden_layers": 3}, ShapeMismatch, "asks for"),
        ({"pad_token_id": 3}, ShapeMismatch, "pads with .*number 0, and config.json says pad_token_id 3"),
        ({"model_type": "xlnet"}, InvalidData, "padding on the right"),
        ({"problem_type": "multi_label_classification"}, InvalidData, "single_label_classification"),
        ({"architectures": ["BertForTokenClassification"]}, InvalidData, "ForSequenceClassification"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    bert: Files, opened: Opened, fields: dict[str, Any], error: type[Invalid], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(bert | {"config.json": changed(bert["config.json"], **fields)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1600}, "config.json says vocab_size 1600"),
        ({"max_position_embeddings": 99}, "34 positions"),
    ],
)
def test_embeddings_of_other_families_are_looked_at_too(
    tmp_path: Path, opened: Opened, fields: dict[str, Any], message: str
) -> None:
    files = contents(texts.save_classifier(tmp_path / "saved", "roberta"))
    with pytest.raises(ShapeMismatch, match=message):
        opened(files | {"config.json": changed(files["config.json"], **fields)})


def test_padding_that_a_text_can_be_is_refused(bert: Files, opened: Opened) -> None:
    said = changed(bert["tokenizer_config.json"], pad_token="[SEP]")
    with pytest.raises(InvalidData, match="makes padding, number 3"):
        opened(
            bert
            | {"tokenizer_config.json": said, "config.json": changed(bert["config.json"], pad_token_id=3)}
        )


def test_a_folder_without_a_tokenizer_says_how_to_get_one(bert: Files, opened: Opened) -> None:
    bare = {name: content for name, content in bert.items() if not name.startswith("tokenizer")}
    for files in (bare, bare | {"vocab.json": b"{}", "merges.txt": b""}):
        with pytest.raises(InvalidData, match=r"no tokenizer.json") as caught:
            opened(files)
        assert "save_pretrained" in caught.value.faults[0].fix
    with pytest.raises(InvalidData, match=r"no \[PAD\]"):
        opened(bare | {"vocab.txt": b"a\nb\n"})


def test_another_task_does_not_fit(bert: Files, opened: Opened) -> None:
    with pytest.raises(Invalid, match="not what this model does") as caught:
        opened(bert, task="image_classification")
    assert caught.value.faults[0].pointer == "/task"


def test_an_onnx_file_is_no_teacher_of_texts(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"\x08\x07")
    (tmp_path / "out").mkdir()
    with pytest.raises(Invalid, match="comes without its tokenizer"):
        take(options(task="text_classification"), [tmp_path / "upload"], tmp_path / "out")
