"""What /predict costs over the bare model: a small student of 32 x 32 images over HTTP and without it.

All ways answer one PNG image a time and take turns in one run. The student is a small ResNet that the catalog
exported; the API is a process of its own with its default settings.
"""

import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from pydantic import SecretStr

from app.catalog.base import Bundle
from app.catalog.spec import ARCHITECTURES, EXPORTS, TASKS
from app.db import migrate
from app.services.access import DEFAULT_PROJECT
from app.services.keys import establish
from app.services.models import Checkpoint, register
from app.services.predictions import answer, find
from app.serving.student import OnnxStudent
from app.settings import Settings
from app.wiring import assemble
from harness.load import Load, post, put_under_load
from harness.servers import embedded, free_port, service

ROUNDS, SECONDS = 4, 2.0
KEY = f"sh_key_{'k' * 43}"
LABELS = [str(digit) for digit in range(10)]
IMAGES = {"channels": 1, "size": [32, 32], "resize": [32, 32], "mean": [0.5], "std": [0.5]}


def main() -> None:
    with TemporaryDirectory() as folder:
        settings = embedded(Path(folder))
        bundle = export(Path(folder))
        publish(settings, bundle, Path(folder))
        measure(settings, bundle, Path(folder) / "model.onnx")


def export(folder: Path) -> Bundle:
    """A student with random weights: it computes as long as a trained one."""
    task = TASKS["image_classification"](kind="image_classification")
    sizes = {"kind": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1]}
    architecture = ARCHITECTURES["resnet"].model_validate(sizes)
    preprocessing = task.parse_preprocessing(IMAGES)
    student = architecture.build(task.input(preprocessing), LABELS).eval()
    sample = task.normalize(np.stack([task.encode(picture(), preprocessing)]), preprocessing)
    bundle = Bundle(student, architecture, task, preprocessing, task.input(preprocessing), LABELS, sample)
    EXPORTS["onnx"](kind="onnx").write(bundle, folder)
    return bundle


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(file, "PNG")
    return file.getvalue()


def publish(settings: Settings, bundle: Bundle, folder: Path) -> None:
    """Registers the student as a job would."""
    migrate.upgrade(settings.database_url)
    parts = assemble(settings)
    blob = parts.blobs.put_file(folder / "model.onnx")
    checkpoint = Checkpoint(
        source="job",
        format="huggingface",
        family="resnet",
        task=bundle.task.kind,
        labels=LABELS,
        input=bundle.input.model_dump(mode="json"),
        preprocessing=bundle.preprocessing.model_dump(mode="json"),
        gives=["logits"],
        details={},
        parameters=sum(one.numel() for one in bundle.student.parameters()),
        files=[{"path": "model.onnx", "sha256": blob.sha256, "size": blob.size}],
    )
    with parts.sessions.write() as session:
        establish(session, settings)
        register(session, DEFAULT_PROJECT, "small", checkpoint, alias="champion")
    print(f"student: {checkpoint.parameters:,} parameters, {blob.size / 1e3:.0f} kB of ONNX")
    parts.close()


def measure(settings: Settings, bundle: Bundle, file: Path) -> None:
    body = {"model": "small@champion", "inputs": [base64.b64encode(picture()).decode()], "top_k": 3}
    request = post("/predict", json.dumps(body).encode(), "application/json")
    keyed = request.replace(b"\r\n", f"\r\nAuthorization: Bearer {KEY}\r\n".encode(), 1)
    limits = {"bootstrap_key": SecretStr(KEY), "rate_limit_predictions": "1000000/second"}
    locked = settings.model_copy(update=limits | {"port": free_port()})
    student, parts = OnnxStudent(file, settings.serving_threads), assemble(settings)
    with parts.sessions.read() as session:
        found = find(session, DEFAULT_PROJECT, "small")
    rounds: dict[str, list[Load]] = {}
    with service(settings) as running, service(locked) as guarded:
        ways: dict[str, Callable[[], Load]] = {
            "bare ONNX Runtime, one thread asking": lambda: called(lambda: student(bundle.sample)),
            "with decoding and labels, in process": lambda: called(
                lambda: answer(found, parts.predictor, [picture_bytes], top_k=3)
            ),
            "POST /predict, 1 connection": lambda: put_under_load(
                running.port, request, connections=1, seconds=SECONDS
            ),
            "with a key and rate limits, 1 connection": lambda: put_under_load(
                guarded.port, keyed, connections=1, seconds=SECONDS
            ),
            "POST /predict, 16 connections": lambda: put_under_load(
                running.port, request, connections=16, seconds=SECONDS
            ),
            "with a key and rate limits, 16 connections": lambda: put_under_load(
                guarded.port, keyed, connections=16, seconds=SECONDS
            ),
        }
        picture_bytes = picture()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                rounds.setdefault(name, []).append(way())
        print(f"the API process with the student loaded: {running.resident_mb():.0f} MB")
    parts.close()
    show(rounds)


def called(work: Callable[[], object]) -> Load:
    """The work done again and again in this thread."""
    latencies: list[float] = []
    started = now = time.perf_counter()
    while now < started + SECONDS:
        work()
        latencies.append(time.perf_counter() - now)
        now += latencies[-1]
    return Load(now - started, sorted(latencies))


def show(rounds: dict[str, list[Load]]) -> None:
    """The median of the rounds."""
    print(f"{'':42} {'p50 ms':>8} {'p95 ms':>8} {'rate/s':>8}")
    for name, loads in rounds.items():
        p50, p95 = (median(load.quantile_ms(share) for load in loads) for share in (0.5, 0.95))
        print(f"{name:42} {p50:8.2f} {p95:8.2f} {median(load.rate for load in loads):8.0f}")


if __name__ == "__main__":
    main()
