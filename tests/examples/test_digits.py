"""What the demo's promise stands on: who holds which images, and that others can read what it writes."""

import io
import json
from collections import Counter
from collections.abc import Callable

import httpx
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.digits import service as remote
from examples.digits.rows import LABELS, deal, parquet


def test_no_two_hands_hold_the_same_image() -> None:
    hands = deal()
    assert {name: len(digits) for name, digits in hands.items()} == {
        "teacher": 1000, "train": 50, "validation": 50, "unlabeled": 337, "test": 360,
    }  # fmt: skip
    everything = [digit.png for digits in hands.values() for digit in digits]
    assert len(set(everything)) == len(everything) == 1797


def test_the_few_labeled_images_show_every_digit_alike() -> None:
    hands = deal()
    for name in ("train", "validation"):
        assert Counter(digit.label for digit in hands[name]) == dict.fromkeys(range(10), 5)


def test_images_and_labels_are_written_as_hugging_face_writes_them() -> None:
    digits = deal()["train"]
    table = pq.read_table(io.BytesIO(parquet(digits, labeled=True)))
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == LABELS
    row = table.to_pylist()[7]
    assert row["label"] == digits[7].label
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (8, 8)


def test_unlabeled_images_carry_no_label() -> None:
    table = pq.read_table(io.BytesIO(parquet(deal()["unlabeled"], labeled=False)))
    assert table.column_names == ["image"]


def test_a_client_is_opened_where_somebody_answers(service: Callable[..., httpx.Client]) -> None:
    url = str(service().base_url)
    with remote.client(url, None) as http:
        assert remote.ask(http, "GET", "/v1/jobs")["data"] == []
    with pytest.raises(remote.Refused, match="make run"):
        remote.client("http://127.0.0.1:1", None)
