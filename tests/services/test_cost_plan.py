"""Orders that are too large are refused, each in less than a second and before anything is built."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import Sessions
from app.db.tables import Project
from app.main import create_app
from app.settings import Settings
from tests import orders

BILLION = 10**9
LR = {"/training/optimizer/lr": {"kind": "float", "low": 0.001, "high": 0.1}}
PLAN, SWEEP = "/v1/jobs/plan", "/v1/sweeps/plan"


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    sessions = Sessions(settings.database_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    sessions.close()
    limits = {"max_training_bytes": 10**8, "max_training_operations": 1e12, "max_signal_bytes": 10**4}
    with TestClient(create_app(settings.model_copy(update=limits)), base_url="http://127.0.0.1") as client:
        yield client


def timed(client: TestClient, path: str, order: dict[str, Any]) -> tuple[Any, float]:
    """The answer, and the seconds of a processor that it took, which other tests do not lengthen."""
    body = json.dumps(order).encode()
    started = time.process_time()
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    return answer, time.process_time() - started


def student(kind: str, **form: Any) -> dict[str, Any]:
    return {"student": {"architecture": {"kind": kind, **form}}}


def images(**task: Any) -> dict[str, Any]:
    return {"task": {"kind": "image_classification", **task}}


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("a width of a billion", student("mlp", hidden_sizes=[BILLION]), "/student/architecture/hidden_sizes/0"),
    ("wide twice", student("mlp", hidden_sizes=[10**6] * 2), "/student/architecture"),
    ("a million layers", student("mlp", hidden_sizes=[4] * 10**6), "/student/architecture/hidden_sizes"),
    ("a million blocks", student("bert", num_hidden_layers=10**6), "/student/architecture/num_hidden_layers"),
    ("heads", student("vit", num_attention_heads=BILLION), "/student/architecture/num_attention_heads"),
    ("stages", student("resnet", depths=[BILLION], hidden_sizes=[8]), "/student/architecture/depths/0"),
    (
        "a multiplier",
        student("mobilenet_v2", depth_multiplier=1e300),
        "/student/architecture/depth_multiplier",
    ),
    (
        "positions",
        student("bert", max_position_embeddings=BILLION),
        "/student/architecture/max_position_embeddings",
    ),
    ("a billion epochs", {"training": {"epochs": BILLION}}, "/training/epochs"),
    ("a last stage", {"training": {"finetune": {"epochs": BILLION}}}, "/training/finetune/epochs"),
    ("a billion rows at once", {"training": {"batch_size": BILLION}}, "/training/batch_size"),
    ("a million views", {"data": {**orders.spec()["data"], "views": 10**6}}, "/data/views"),
    ("a wall of pixels", images(image_size=10**5), "/task/image_size"),
    ("a long wall", images(image_size=[1, 10**9]), "/task/image_size/1"),
    ("a thousand teachers", {"teachers": [{"model": "model:botanist"}] * 1000}, "/teachers"),
    ("a thousand losses", {"losses": [{"kind": "kd"}] * 1000}, "/losses"),
    ("a thousand exports", {"exports": [{"kind": "onnx"}] * 1000}, "/exports"),
    ("a billion resamples", {"evaluation": {"bootstrap": BILLION}}, "/evaluation/bootstrap"),
    ("a billion seeds", {"evaluation": {"seeds": BILLION}}, "/evaluation/seeds"),
    ("generations", {"scheme": {"kind": "born_again", "generations": BILLION}}, "/scheme/generations"),
    ("peers", {"scheme": {"kind": "mutual", "peers": BILLION}}, "/scheme/peers"),
    ("much memory", student("mlp", hidden_sizes=[4000, 4000]), "/training/micro_batch_size"),
    (
        "many operations",
        {"training": {"epochs": 90_000}, **student("mlp", hidden_sizes=[400, 400])},
        "/training/epochs",
    ),
    ("much to store", {"data": {**orders.spec()["data"], "views": 30, "augment": []}}, "/data/views"),
]


@pytest.mark.parametrize(
    ("order", "pointer"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_an_order_that_is_too_large_is_refused_at_once(
    client: TestClient, order: dict[str, Any], pointer: str
) -> None:
    answer, seconds = timed(client, PLAN, orders.spec(**order))
    told = answer.json()
    faults = (
        told["errors"]
        if answer.status_code == 422
        else [one for one in told["checks"] if one["status"] == "fail"]
    )
    assert any(fault["pointer"].startswith(pointer) for fault in faults), told
    assert all(fault["fix"] for fault in faults)
    assert seconds < 1.0
    assert client.post("/v1/jobs", json=orders.spec(**order)).status_code == 422


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        ({"budget": {"trials": BILLION}}, "/budget/trials"),
        ({"space": {f"/labels/{place}": LR["/training/optimizer/lr"] for place in range(1000)}}, "/space"),
        ({"space": {"/training/epochs": {"kind": "choice", "values": list(range(10**4))}}}, "/space"),
        ({"space": {"/training/epochs": {"kind": "int", "low": 1, "high": BILLION}}}, "/space"),
    ],
    ids=["trials", "fields", "values", "range"],
)  # fmt: skip
def test_a_sweep_that_is_too_large_is_refused_at_once(
    client: TestClient, order: dict[str, Any], pointer: str
) -> None:
    sweep = {"spec": orders.spec(), "space": LR, "budget": {"trials": 3}, **order}
    answer, seconds = timed(client, SWEEP, sweep)
    told = answer.json()
    faults = (
        told["errors"]
        if answer.status_code == 422
        else [one for one in told["checks"] if one["status"] == "fail"]
    )
    assert any(fault["pointer"].startswith(pointer) for fault in faults), told
    assert seconds < 1.0


def test_what_an_order_costs_is_told(client: TestClient) -> None:
    """The student is 2 > 4 > 3; 54 of 60 rows are learned from, 60 are counted."""
    estimate = client.post(PLAN, json=orders.spec(training={"epochs": 2, "batch_size": 16})).json()[
        "estimate"
    ]
    operations, numbers, weights = 2 * (2 * 4 + 4 * 3), 2 * (4 + 3), 27
    assert estimate["training_operations"] == 3 * operations * 60 * 2 * 2  # student and control
    assert estimate["training_bytes"] == 16 * weights + 4 * numbers * 16
    assert estimate["signal_bytes"] == 60 * 4 * 3
