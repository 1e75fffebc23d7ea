"""Imports over HTTP: ordered with JSON where a form would hold files, followed, listed, cancelled."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import Sessions
from app.db.tables import Import
from app.main import create_app
from app.services import porter
from app.settings import Settings
from tests import hub as hubs
from tests.hub import Hub
from tests.intake.checkpoints import save_sklearn
from tests.waiting import until

HEADER = "w,x,y,z,label"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubs.serving() as hub:
        yield hub


@pytest.fixture
def client(settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(porter, "PARTING_S", 0.1)
    places = tuple(url.removeprefix("http://") for url in (hub.url, hub.storage))
    changes = {"hub_url": hub.url, "outgoing_allow": places, "poll_s": 0.05}
    application = create_app(Settings(**settings.model_dump() | changes))
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def table(rows: int, seed: int) -> bytes:
    random = Random(seed)
    cells = (",".join(f"{random.random():.4f}" for _ in range(4)) for _ in range(rows))
    return "\n".join([HEADER, *(f"{line},{n % 3}" for n, line in enumerate(cells)), ""]).encode()


def ended(client: TestClient, answer: Any) -> dict[str, Any]:
    """The import that was accepted, at its end."""
    assert answer.status_code == 202, answer.json()
    one = answer.json()
    assert answer.headers["location"] == one["links"]["self"] == f"/v1/imports/{one['id']}"
    for _ in range(100):
        one = client.get(f"/v1/imports/{one['id']}", params={"wait": 5, "version": one["version"]}).json()
        if one["terminal"]:
            return dict(one)
    pytest.fail(f"the import does not end: {one}")


def test_a_job_is_planned_with_what_came_from_a_hub(client: TestClient, hub: Hub, tmp_path: Path) -> None:
    commit = hub.put("org/flowers", {"train.csv": table(60, 1), "test.csv": table(30, 2)})
    one = ended(client, client.post("/v1/datasets", json={"name": "flowers", "source": "hf:org/flowers"}))
    assert (one["status"], one["reference"], one["new"]) == ("succeeded", "dataset:flowers@1", True)
    assert (one["pinned"], one["bytes"]) == (f"hf:org/flowers@{commit}", one["total_bytes"])
    version = client.get(one["links"]["result"]).json()
    assert (version["source"], version["rows"], version["label"]) == (one["pinned"], 90, "label")

    content = save_sklearn(tmp_path / "model.onnx", "logistic", labels=["0", "1", "2"]).read_bytes()
    taught = hub.put("org/botanist", {"model.onnx": content})
    order = {"name": "botanist", "source": "hf:org/botanist@main", "task": "tabular_classification"}
    teacher = ended(client, client.post("/v1/models", json=order))
    lineage = client.get(f"{teacher['links']['result']}/lineage").json()["lineage"]
    assert lineage["source"] == f"hf:org/botanist@{taught}"

    spec = {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": f"hf:org/botanist@{taught}"}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [4]}},
        "data": {"train": f"hf:org/flowers@{commit}#train", "test": "hf:org/flowers"},
    }
    checks = client.post("/v1/jobs/plan", json=spec).json()["checks"]
    (moving,) = [check for check in checks if check["status"] == "fail"]
    assert commit in moving["fix"]
    spec["data"] |= {"test": "dataset:flowers@1#test"}  # type: ignore[operator]
    planned = client.post("/v1/jobs/plan", json=spec).json()
    assert not [check for check in planned["checks"] if check["status"] == "fail"]
    assert planned["resolved"]["data"]["train"]["reference"] == "dataset:flowers@1#train"
    assert planned["resolved"]["teachers"][0]["reference"] == "model:botanist@1"


def test_imports_are_listed_and_cancelled(client: TestClient, hub: Hub) -> None:
    hub.put("org/flowers", {"train.csv": table(60, 1)})
    hub.holds["train.csv"] = 10
    order = {"name": "flowers", "source": "hf:org/flowers"}
    first = client.post("/v1/datasets", json=order, headers={"Idempotency-Key": "monday"})
    again = client.post("/v1/datasets", json=order, headers={"Idempotency-Key": "monday"})
    assert first.json()["id"] == again.json()["id"]
    second = client.post("/v1/models", json=order).json()
    listed = client.get("/v1/imports", params={"limit": 1}).json()
    assert ([one["id"] for one in listed["data"]], listed["has_more"]) == ([second["id"]], True)
    rest = client.get("/v1/imports", params={"after": listed["next"]}).json()
    assert [one["id"] for one in rest["data"]] == [first.json()["id"]]

    path = first.headers["location"]
    cancelled = client.delete(path)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert client.delete(path).json()["code"] == "state_conflict"
    assert client.get("/v1/imports", params={"status": "cancelled"}).json()["data"] == [cancelled.json()]
    etag = client.get(path).headers["etag"]
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert client.get("/v1/imports/imp_none").status_code == 404


def test_a_server_that_ends_gives_its_imports_back(client: TestClient, hub: Hub, settings: Settings) -> None:
    hub.put("org/flowers", {"train.csv": table(60, 1)})
    hub.holds["train.csv"] = 10
    order = {"name": "flowers", "source": "hf:org/flowers"}
    one = client.post("/v1/datasets", json=order).json()["id"]
    until(lambda: hub.served["train.csv"] > 0)
    client.__exit__()
    with closing(Sessions(settings.database_url)) as sessions, sessions.read() as session:
        left = session.get_one(Import, one)
        assert (left.status, left.lease_expires_at) == ("queued", None)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("models", {"source": "org/insects"}, "/source"),
    ("models", {"source": "hf:insects"}, "/source"),
    ("models", {"source": "hf:org/../insects"}, "/source"),
    ("models", {"source": "hf:org/insects@../main"}, "/source"),
    ("models", {"source": "https://example.com/model.zip"}, "/source"),
    ("models", {"source": "s3://lake/iris"}, "/source"),
    ("models", {"source": 5}, "/source"),
    ("models", {"name": "No Name"}, "/name"),
    ("models", {"sorce": "hf:org/insects"}, "/sorce"),
    ("models", {"files": {"file": ["*"]}}, "/files"),
    ("datasets", {"files": {"trian": ["*"]}}, "/files/trian"),
    ("datasets", {"seed": "7"}, "/seed"),
    ("datasets", {"source": "hf:org/iris#train"}, "/source"),
]


def test_an_order_that_cannot_be_is_refused(client: TestClient) -> None:
    for path, changes, pointer in REFUSED:
        order = {"name": "insects", "source": "hf:org/insects", **changes}
        answer = client.post(f"/v1/{path}", json=order)
        assert answer.status_code == 422, answer.json()
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
        assert all(fault["fix"] for fault in answer.json()["errors"])
    long = {"name": "insects", "source": "hf:org/insects", "labels": ["a" * 1000] * 300}
    assert client.post("/v1/models", json=long).json()["code"] == "payload_too_large"
    assert client.get("/v1/imports").json()["data"] == []


def test_both_bodies_are_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/models", "/v1/datasets"):
        body = paths[path]["post"]["requestBody"]["content"]
        assert set(body) == {"multipart/form-data", "application/json"}
        assert body["application/json"]["schema"]["required"] == ["name", "source"]
        assert "202" in paths[path]["post"]["responses"]
