"""The cache of loaded students, on real ONNX files and a real blob store."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import ModelNotReady, Unavailable
from app.ports.blobs import Blobs
from app.serving import predictor as serving
from app.serving.predictor import OnnxPredictor
from app.serving.student import OnnxStudent
from tests.serving import students

MIB = 1024**2
ROWS = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)


def linear_onnx(scale: float, padding: int = 0) -> bytes:
    """logits = 3 features * scale, with `padding` more numbers that it does not need."""
    return students.linear_onnx(np.eye(3, dtype=np.float32) * np.float32(scale), (3,), padding)


class WatchedBlobs:
    """The blob store underneath, with its fetches counted and, where a test says so, held up or refused."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.fetched: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def fetch(self, sha256: str, path: Path) -> None:
        self.fetched.append(sha256)
        assert self.gate.wait(10)
        if self.away:
            raise Unavailable("the store is away")
        self._blobs.fetch(sha256, path)


class Clock:
    """Monotonic seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched(blobs: Blobs) -> WatchedBlobs:
    return WatchedBlobs(blobs)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def predictor(watched: WatchedBlobs, tmp_path: Path, clock: Clock) -> Iterator[OnnxPredictor]:
    with closing(OnnxPredictor(watched, tmp_path / "served", 100 * MIB, 1, clock=clock)) as made:
        yield made


@pytest.fixture
def stored(blobs: Blobs) -> Callable[[bytes], str]:
    return lambda content: blobs.put([content]).sha256


Stored = Callable[[bytes], str]


def test_logits_are_what_the_file_computes(predictor: OnnxPredictor, stored: Stored) -> None:
    np.testing.assert_array_equal(predictor.logits(stored(linear_onnx(2)), ROWS), ROWS * 2)


def test_a_model_is_loaded_once_and_its_file_does_not_stay(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs, tmp_path: Path
) -> None:
    sha256 = stored(linear_onnx(2))
    for _ in range(3):
        predictor.logits(sha256, ROWS)
    assert watched.fetched == [sha256]
    assert list((tmp_path / "served").iterdir()) == []


def test_first_calls_at_once_share_one_load(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs
) -> None:
    sha256 = stored(linear_onnx(2))
    watched.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(predictor.logits, sha256, ROWS + i) for i in range(8)]
        watched.gate.set()
        for i, answer in enumerate(answers):
            np.testing.assert_array_equal(answer.result(), (ROWS + i) * 2)
    assert watched.fetched == [sha256]


def test_another_model_answers_while_one_is_still_loading(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs
) -> None:
    loaded, slow = stored(linear_onnx(2)), stored(linear_onnx(3))
    predictor.logits(loaded, ROWS)
    watched.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(predictor.logits, slow, ROWS)
        np.testing.assert_array_equal(predictor.logits(loaded, ROWS), ROWS * 2)
        assert not waiting.done()
        watched.gate.set()
        np.testing.assert_array_equal(waiting.result(), ROWS * 3)


def test_the_least_recently_used_model_makes_room(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs
) -> None:
    """Each is estimated at 4 * 10 + 4 MiB, so that two fit into 100 MiB and three do not."""
    first, second, third = (stored(linear_onnx(scale, 10 * MIB // 4)) for scale in (1, 2, 3))
    for sha256 in (first, second, first, third, first, third):
        predictor.logits(sha256, ROWS)
    assert watched.fetched == [first, second, third]
    predictor.logits(second, ROWS)
    assert watched.fetched == [first, second, third, second]


def test_models_that_load_at_once_do_not_stay_above_the_budget(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs
) -> None:
    digests = [stored(linear_onnx(scale, 10 * MIB // 4)) for scale in range(1, 6)]
    with ThreadPoolExecutor(5) as threads:
        watched.gate.clear()
        answers = [threads.submit(predictor.logits, sha256, ROWS) for sha256 in digests]
        watched.gate.set()
        for scale, answer in enumerate(answers, 1):
            np.testing.assert_array_equal(answer.result(), ROWS * scale)
    assert len(predictor._seats) <= 2


def test_a_model_given_up_in_use_ends_its_call_and_is_freed(
    predictor: OnnxPredictor, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, leave = threading.Event(), threading.Event()
    opened: list[weakref.ref[OnnxStudent]] = []

    class Slow(OnnxStudent):
        def __init__(self, path: Path, threads: int) -> None:
            super().__init__(path, threads)
            opened.append(weakref.ref(self))

        def __call__(self, inputs: Any) -> Any:
            inside.set()
            assert leave.wait(10)
            return super().__call__(inputs)

    monkeypatch.setattr(serving, "OnnxStudent", Slow)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(predictor.logits, stored(linear_onnx(2)), ROWS)
        assert inside.wait(10)
        predictor.close()
        assert opened[0]() is not None
        leave.set()
        np.testing.assert_array_equal(answer.result(), ROWS * 2)
    gc.collect()
    assert opened[0]() is None


def test_a_model_above_the_budget_is_refused_with_the_way_out(
    predictor: OnnxPredictor, stored: Stored
) -> None:
    with pytest.raises(ModelNotReady, match="STILLHOUSE_SERVING_BYTES"):
        predictor.logits(stored(linear_onnx(2, 30 * MIB // 4)), ROWS)


@pytest.mark.parametrize("content", [b"", b"no model", linear_onnx(2)[:100]])
def test_a_file_that_is_no_model_is_not_ready(
    predictor: OnnxPredictor, stored: Stored, content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotReady, match="cannot be loaded") as refused:
        predictor.logits(stored(content), ROWS)
    assert str(tmp_path) not in refused.value.detail


def test_a_missing_file_is_not_ready(predictor: OnnxPredictor) -> None:
    with pytest.raises(ModelNotReady, match="missing"):
        predictor.logits("0" * 64, ROWS)


def test_a_failed_load_is_remembered_for_half_a_minute(
    predictor: OnnxPredictor, stored: Stored, watched: WatchedBlobs, clock: Clock
) -> None:
    sha256 = stored(linear_onnx(2))
    watched.away = True
    for now, wait_s in ((1000.0, 30), (1010.5, 20), (1029.9, 1)):
        clock.now = now
        with pytest.raises(ModelNotReady, match="cannot be fetched") as refused:
            predictor.logits(sha256, ROWS)
        assert refused.value.retry_after_s == wait_s
    assert len(watched.fetched) == 1
    watched.away = False
    clock.now = 1030.0
    np.testing.assert_array_equal(predictor.logits(sha256, ROWS), ROWS * 2)


def test_a_damaged_blob_is_never_served(predictor: OnnxPredictor, stored: Stored, tmp_path: Path) -> None:
    sha256 = stored(linear_onnx(2))
    (path,) = (tmp_path / "blobs").rglob(sha256)
    path.write_bytes(linear_onnx(3))
    with pytest.raises(ModelNotReady):
        predictor.logits(sha256, ROWS)


def test_many_threads_over_more_models_than_fit(predictor: OnnxPredictor, stored: Stored) -> None:
    digests = [stored(linear_onnx(scale, 6 * MIB // 4)) for scale in range(1, 7)]

    def answer(turn: int) -> bool:
        scale = turn % 6
        return bool((predictor.logits(digests[scale], ROWS) == ROWS * (scale + 1)).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(answer, range(120)))
