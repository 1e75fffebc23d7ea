"""Which files of a source are fetched, and which never."""

from collections.abc import Iterable

import pytest

from app.errors import Invalid, InvalidData, UnsafeFormat
from app.ports.origin import RemoteFile
from app.services import picking
from app.services.picking import MAX_FILES, Field

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def lying(paths: Iterable[str]) -> dict[str, RemoteFile]:
    return {path: RemoteFile(path, 10, "git", "0" * 40) for path in paths}


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        ([CONFIG, WEIGHTS, "vocab.txt", "run.sh", "pytorch_model.bin"], [CONFIG, WEIGHTS, "vocab.txt"]),
        ([CONFIG, INDEX, *SHARDS], [CONFIG, INDEX, *SHARDS]),
        ([CONFIG, WEIGHTS, INDEX, *SHARDS], [CONFIG, WEIGHTS]),
        ([CONFIG, WEIGHTS, "fp16/" + WEIGHTS, "modeling_own.py", "tf_model.h5"], [CONFIG, WEIGHTS]),
        (["teacher.zip"], ["teacher.zip"]),
        (["teacher.onnx"], ["teacher.onnx"]),
    ],
)
def test_of_a_model_come_the_files_of_a_checkpoint(there: list[str], fetched: list[str]) -> None:
    assert sorted(pick.path for pick in picking.of_model(lying(there))) == sorted(fetched)


@pytest.mark.parametrize(
    ("there", "refusal"),
    [
        ([CONFIG, "pytorch_model.bin"], UnsafeFormat),
        ([CONFIG], InvalidData),
        ([WEIGHTS], InvalidData),
        (["onnx/model.onnx", "onnx/other.onnx"], InvalidData),
        ([], InvalidData),
    ],
)
def test_what_is_no_checkpoint_is_refused(there: list[str], refusal: type[Invalid]) -> None:
    with pytest.raises(Invalid) as error:
        picking.of_model(lying(there))
    assert type(error.value) is refusal
    assert error.value.faults[0].pointer == "/source"
    assert error.value.faults[0].fix


@pytest.mark.parametrize(
    ("there", "fields"),
    [
        (["data/train-0.parquet", "data/train-1.parquet", "data/test.csv"], ["train", "train"]),
        (["train/0.csv", "validation/0.csv", "Test/0.csv"], ["test", "train", "validation"]),
        (["dev.jsonl", "unsupervised.jsonl", "README.md"], ["validation", "unlabeled"]),
        (["all.csv", "more.csv", "load.py", "data.pkl"], ["file", "file"]),
        (["pets.zip"], ["file"]),
        (["latest.csv", "contest.csv"], ["file", "file"]),  # a word within a word is none
    ],
)
def test_data_of_one_format_come_by_their_split(there: list[str], fields: list[Field]) -> None:
    assert sorted(pick.field for pick in picking.of_dataset(lying(there))) == sorted(fields)


def test_names_of_which_some_say_no_split_have_to_be_told_apart() -> None:
    there = lying(["train.csv", "rest.csv", "secret.pkl"])
    with pytest.raises(Invalid, match=r"rest\.csv"):
        picking.of_dataset(there)
    picks = picking.of_dataset(there, {"train": ["train.*"], "test": ["re?t.csv"]})
    assert {pick.path: pick.field for pick in picks} == {"train.csv": "train", "rest.csv": "test"}
    wrong: list[dict[Field, list[str]]] = [
        {"train": ["*.csv"], "test": ["rest.csv"]},
        {"train": ["secret.pkl"]},
    ]
    for patterns in wrong:
        with pytest.raises(Invalid) as error:
            picking.of_dataset(there, patterns)
        assert error.value.faults[0].pointer.startswith("/files/")


def test_a_source_of_too_many_files_is_refused() -> None:
    with pytest.raises(Invalid, match="257 files"):
        picking.of_dataset(lying(f"{number}.csv" for number in range(MAX_FILES + 1)))
