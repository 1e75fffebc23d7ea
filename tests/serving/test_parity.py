"""What the API answers for a raw row is what torch computes, from the files that a student leaves behind."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.catalog.base import Architecture, Bundle, Task
from app.catalog.spec import ARCHITECTURES, EXPORTS, TASKS
from app.main import create_app
from app.ports.parts import Parts
from app.services.models import register
from app.settings import Settings
from tests.serving.students import PLANTS, PROJECT, TABLE, checkpoint

LABELS = ["ant", "bee", "cat"]
PHOTO = {"channels": 3, "size": [32, 32], "resize": 36, "crop": True, "resample": "bicubic"}
PHOTO |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://127.0.0.1") as client:
        yield client


def photo(seed: int) -> bytes:
    """A JPEG of a smooth color gradient with some noise, wider than high."""
    random = np.random.default_rng(seed)
    slopes = random.uniform(0, 255, (2, 3))
    y, x = np.mgrid[0:1:48j, 0:1:70j]
    pixels = y[..., None] * slopes[0] + x[..., None] * slopes[1] + random.normal(0, 8, (48, 70, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def exported(architecture: Architecture, task: Task, preprocessing: Any, raw: Any, folder: Path) -> Bundle:
    """A student with random weights and batch statistics, written to the folder in every format."""
    torch.manual_seed(0)
    labels = LABELS if task.modality == "image" else PLANTS
    student = architecture.build(task.input(preprocessing), labels)
    sample = task.normalize(np.stack([task.encode(raw, preprocessing)] * 8), preprocessing)
    student.train()(torch.from_numpy(sample) + torch.randn(sample.shape))
    bundle = Bundle(
        student.eval(), architecture, task, preprocessing, task.input(preprocessing), labels, sample
    )
    for kind in ("safetensors", "onnx"):
        EXPORTS[kind](kind=kind).write(bundle, folder)
    return bundle


def publish(parts: Parts, bundle: Bundle, folder: Path) -> None:
    changes: dict[str, Any] = {
        "task": bundle.task.kind,
        "labels": list(bundle.labels),
        "input": bundle.input.model_dump(mode="json"),
        "preprocessing": bundle.preprocessing.model_dump(mode="json"),
    }
    student = checkpoint(parts.blobs, (folder / "model.onnx").read_bytes(), **changes)
    with parts.sessions.write() as session:
        register(session, PROJECT, "student", student)


def in_order(prediction: dict[str, Any], labels: list[str]) -> list[float]:
    """The probabilities, by label."""
    found = {one["label"]: one["probability"] for one in prediction["top"]}
    return [found[label] for label in labels]


def test_a_photo_is_answered_as_plain_transformers_answers_it(
    application: FastAPI, client: TestClient, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    task = TASKS["image_classification"](kind="image_classification")
    small = {"kind": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    architecture = ARCHITECTURES["resnet"].model_validate(small)
    bundle = exported(architecture, task, task.parse_preprocessing(PHOTO), photo(0), tmp_path)
    publish(application.state.parts, bundle, tmp_path)
    photos = [photo(seed) for seed in range(6)]
    answer = client.post(
        "/v1/models/student/predict", data={"top_k": "3"}, files=[("file", image) for image in photos]
    )

    processor = AutoImageProcessor.from_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images = [Image.open(io.BytesIO(image)) for image in photos]
    with torch.inference_mode():
        expected = model(**processor(images, return_tensors="pt")).logits.softmax(-1).numpy()
    served = [in_order(one, LABELS) for one in answer.json()["predictions"]]
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert expected.std(axis=0).max() > 1e-3  # the photos are told apart


def test_a_row_is_answered_as_torch_answers_it(
    application: FastAPI, client: TestClient, tmp_path: Path
) -> None:
    task = TASKS["tabular_classification"](kind="tabular_classification")
    architecture = ARCHITECTURES["mlp"].model_validate({"kind": "mlp", "hidden_sizes": [16, 8]})
    rows = [{"height": 3.5 * i, "color": color} for i, color in enumerate(["red", "yellow", None, "blue"])]
    bundle = exported(architecture, task, task.parse_preprocessing(TABLE), rows[0], tmp_path)
    publish(application.state.parts, bundle, tmp_path)
    answer = client.post("/v1/models/student/predict", json={"inputs": rows, "top_k": 2})

    batch = torch.tensor([[-5, 1, 0], [-3.25, 0, 1], [-1.5, 0, 0], [0.25, 0, 0]], dtype=torch.float32)
    with torch.inference_mode():
        expected = bundle.student(batch).logits.softmax(-1).numpy()
    served = [in_order(one, PLANTS) for one in answer.json()["predictions"]]
    np.testing.assert_allclose(served, expected, atol=1e-5)
