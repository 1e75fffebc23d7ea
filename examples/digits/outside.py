"""The student outside of Stillhouse: a folder that plain transformers and plain onnxruntime open."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoModelForImageClassification

from examples.digits.rows import Digit
from examples.digits.teacher import EDGE, pixel_values

Probabilities = NDArray[np.float64]  # (rows, 10), the digits in order
MEASURED_S = 0.5
WARM_UPS = 5
MANY = 32  # images in the larger of two batches


@dataclass(frozen=True)
class Measured:
    """An ONNX file: its bytes, and the median milliseconds for one image and for MANY at once."""

    size: int
    one_ms: float
    many_ms: float


def by_transformers(folder: Path, digits: list[Digit]) -> Probabilities:
    processor = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(pixel_values=pixel_values(processor, digits)).logits
    return _softmax(logits.numpy())


def by_onnxruntime(folder: Path, digits: list[Digit]) -> Probabilities:
    processor = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values(processor, digits).numpy()})
    return _softmax(logits)


def measure(file: Path) -> Measured:
    session = onnxruntime.InferenceSession(file)
    return Measured(file.stat().st_size, _latency_ms(session, 1), _latency_ms(session, MANY))


def _latency_ms(session: onnxruntime.InferenceSession, batch: int) -> float:
    pixels = np.random.default_rng(0).normal(size=(batch, 3, EDGE, EDGE))
    inputs = {"pixel_values": pixels.astype(np.float32)}
    for _ in range(WARM_UPS):
        session.run(None, inputs)
    seconds: list[float] = []
    while sum(seconds) < MEASURED_S:
        started = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1000


def _softmax(logits: NDArray[np.float32]) -> Probabilities:
    odds = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    softened: Probabilities = odds / odds.sum(-1, keepdims=True)
    return softened
