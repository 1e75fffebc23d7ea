"""A student of a family of our own is a teacher again, from the folder that it left."""

import json
from pathlib import Path

import pytest

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input
from app.errors import Invalid
from app.intake.model import take
from tests.intake.checkpoints import LABELS, changed, contents, options, pack

FEATURES = [{"name": name, "mean": 1.0, "std": 2.0} for name in ("height", "weight")]


@pytest.fixture
def student(tmp_path: Path) -> dict[str, bytes]:
    """A perceptron of two numbers."""
    folder = tmp_path / "student"
    folder.mkdir()
    model = MLP(hidden_sizes=(5,)).build(Input(modality="vector", shape=(2,)), LABELS)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "preprocessing.json").write_text(json.dumps({"features": FEATURES}))
    return contents(folder)


def opened(tmp_path: Path, files: dict[str, bytes]) -> dict[str, object]:
    (tmp_path / "out").mkdir()
    return take(options(), [pack(tmp_path / "upload", files, "student/")], tmp_path / "out")


def test_a_perceptron_is_taken_in_again(tmp_path: Path, student: dict[str, bytes]) -> None:
    answer = opened(tmp_path, student)
    assert (answer["format"], answer["family"], answer["task"]) == ("mlp", "mlp", "tabular_classification")
    assert (answer["labels"], answer["parameters"]) == (LABELS, 3 * 5 + 6 * 3)
    assert answer["input"] == {"modality": "vector", "shape": [2]}
    assert MLP.model_validate(answer["details"]["config"]) == MLP(hidden_sizes=(5,))  # type: ignore[index]
    assert set(contents(tmp_path / "out" / "files")) == set(student)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"hidden_sizes": [6]}),
        ("config.json", {"hidden_sizes": [10**9]}),
        ("config.json", {"activation": "eval"}),
        ("config.json", {"id2label": {"0": "a", "1": "b"}}),
        ("preprocessing.json", {"features": FEATURES[:1]}),
        ("preprocessing.json", {"features": []}),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, student: dict[str, bytes], file: str, fields: dict[str, object]
) -> None:
    with pytest.raises(Invalid):
        opened(tmp_path, {**student, file: changed(student[file], **fields)})
