import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.db.session import Sessions
from app.errors import InvalidData, ModelNotReady, NotFound
from app.ports.blobs import Blobs
from app.services.models import register
from app.services.predictions import ROWS_AT_ONCE, Student, answer, find
from app.serving.predictor import OnnxPredictor
from tests.serving.students import (
    PROJECT,
    add_digits,
    add_plants,
    checkpoint,
    digit,
    expected_logits,
    linear_onnx,
    weights,
)


@pytest.fixture
def predictor(blobs: Blobs, tmp_path: Path) -> Iterator[OnnxPredictor]:
    with closing(OnnxPredictor(blobs, tmp_path / "served", 2**30, 1)) as made:
        yield made


@pytest.fixture
def digits(sessions: Sessions, blobs: Blobs) -> Student:
    with sessions.write() as session:
        add_digits(session, blobs)
        return find(session, PROJECT, "digits")


@pytest.fixture
def plants(sessions: Sessions, blobs: Blobs) -> Student:
    with sessions.write() as session:
        add_plants(session, blobs)
        return find(session, PROJECT, "plants")


# ---- finding a student


def test_a_reference_is_a_version_an_alias_or_the_newest(sessions: Sessions, blobs: Blobs) -> None:
    with sessions.write() as session:
        add_digits(session, blobs, seed=1, alias="champion")
        add_digits(session, blobs, seed=2)
        found = {
            reference: find(session, PROJECT, reference)
            for reference in ("digits", "digits@1", "digits@champion", "model:digits@2")
        }
    assert [student.name for student in found.values()] == ["digits@2", "digits@1", "digits@1", "digits@2"]
    assert found["digits"].sha256 != found["digits@1"].sha256 == found["digits@champion"].sha256


@pytest.mark.parametrize("reference", ["nothing", "digits@7", "digits@nobody"])
def test_a_reference_to_nothing_is_not_found(sessions: Sessions, blobs: Blobs, reference: str) -> None:
    with sessions.write() as session:
        add_digits(session, blobs)
        with pytest.raises(NotFound, match="digits") as refused:
            find(session, PROJECT, reference)
    assert refused.value.faults[0].pointer == "/model"


def test_a_student_of_another_project_is_not_found(sessions: Sessions, blobs: Blobs) -> None:
    with sessions.write() as session:
        add_digits(session, blobs)
        with pytest.raises(NotFound):
            find(session, "prj_other", "digits")


def test_an_imported_model_is_never_opened_by_the_api(sessions: Sessions, blobs: Blobs) -> None:
    imported = checkpoint(blobs, linear_onnx(weights(0, 64, 10), (1, 8, 8)), source="import")
    with sessions.write() as session:
        register(session, PROJECT, "teacher", imported)
        with pytest.raises(ModelNotReady, match="distill it"):
            find(session, PROJECT, "teacher")


def test_a_student_without_an_onnx_export_says_how_to_get_one(sessions: Sessions, blobs: Blobs) -> None:
    with sessions.write() as session:
        register(session, PROJECT, "digits", checkpoint(blobs, None))
        with pytest.raises(ModelNotReady, match="exports"):
            find(session, PROJECT, "digits")


def test_the_quantized_file_serves_where_there_is_no_other(sessions: Sessions, blobs: Blobs) -> None:
    files = [{"path": path, "sha256": path[0] * 64, "size": 1} for path in ("model.int8.onnx", "config.json")]
    both = [*files, {"path": "model.onnx", "sha256": "f" * 64, "size": 1}]
    with sessions.write() as session:
        register(session, PROJECT, "digits", checkpoint(blobs, None, files=files))
        assert find(session, PROJECT, "digits").sha256 == "m" * 64
        register(session, PROJECT, "digits", checkpoint(blobs, None, files=both))
        assert find(session, PROJECT, "digits").sha256 == "f" * 64


# ---- answering


def test_an_image_is_answered_with_labels_and_probabilities(
    digits: Student, predictor: OnnxPredictor
) -> None:
    (found,) = answer(digits, predictor, [digit(5)], top_k=3)
    odds = np.exp(expected_logits(digit(5)))
    likeliest = np.argsort(-odds)[:3]
    assert [one["label"] for one in found["top"]] == [str(place) for place in likeliest]
    probabilities = [one["probability"] for one in found["top"]]
    np.testing.assert_allclose(probabilities, odds[likeliest] / odds.sum(), atol=1e-5)
    assert (found["label"], found["probability"]) == (str(likeliest[0]), probabilities[0])


def test_the_same_image_in_every_form_is_answered_the_same(digits: Student, predictor: OnnxPredictor) -> None:
    text = base64.b64encode(digit(5)).decode()
    rows = [digit(5), text, f"data:image/png;base64,{text}", digit(5, "BMP")]
    answers = answer(digits, predictor, rows, top_k=10)
    assert answers == [answers[0]] * 4


def test_answers_of_many_rows_come_in_order(digits: Student, predictor: OnnxPredictor) -> None:
    rows = [digit(seed) for seed in range(2 * ROWS_AT_ONCE + 5)]
    answers = answer(digits, predictor, rows, top_k=1)
    assert [one["label"] for one in answers] == [str(expected_logits(row).argmax()) for row in rows]


def test_a_row_of_a_table_is_an_object_or_a_list(plants: Student, predictor: OnnxPredictor) -> None:
    rows = [{"height": 14, "color": "yellow"}, [14, "yellow"], {"color": "red", "height": None}, [6.0, None]]
    answers = answer(plants, predictor, rows, top_k=9)
    assert [one["label"] for one in answers] == ["tulip", "tulip", "rose", "rose"]
    assert answers[0] == answers[1]
    assert answers[0]["probability"] == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-6)
    assert len(answers[0]["top"]) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("%%%", "base64"),
        ("Zm9v", "cannot be decoded"),
        ("data:image/png", "cannot be decoded"),
        (digit(1)[:60], "cannot be decoded"),
        ("", "cannot be decoded"),
        (7, "a number"),
        ({"b64": ""}, "an object"),
        (None, "null"),
    ],
)
def test_what_is_no_image_is_named_by_its_row(
    digits: Student, predictor: OnnxPredictor, row: Any, reason: str
) -> None:
    with pytest.raises(InvalidData, match=reason) as refused:
        answer(digits, predictor, [digit(1), row, digit(2), row], top_k=1)
    assert [fault.pointer for fault in refused.value.faults] == ["/inputs/1", "/inputs/3"]
    assert all(fault.fix for fault in refused.value.faults)
    assert refused.value.detail.endswith("And 1 more.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"height": 3}, "color"),
        ([3], "2 values"),
        ("3,red", "an object with the columns"),
        ({"height": "tall", "color": "red"}, "height"),
        ({"height": True, "color": "red"}, "height"),
        ({"height": 1e300, "color": "red"}, "range"),
        ({"height": 3, "color": {}}, "color"),
    ],
)
def test_what_is_no_row_is_named(plants: Student, predictor: OnnxPredictor, row: Any, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason) as refused:
        answer(plants, predictor, [row], top_k=1)
    assert [fault.pointer for fault in refused.value.faults] == ["/inputs/0"]
    assert "columns" in refused.value.faults[0].fix


def test_a_row_that_overflows_in_the_student_is_named(plants: Student, predictor: OnnxPredictor) -> None:
    rows = [[1, "red"]] * (ROWS_AT_ONCE + 1) + [[5.9e38, "red"]]
    with pytest.raises(InvalidData, match="far outside") as refused:
        answer(plants, predictor, rows, top_k=1)
    assert [fault.pointer for fault in refused.value.faults] == [f"/inputs/{ROWS_AT_ONCE + 1}"]
