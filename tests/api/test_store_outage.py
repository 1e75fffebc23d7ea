"""An object store that hangs, and one that is gone: a real one, under uploads, downloads and an import."""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.api.health import Readiness
from app.db.dialect import db_now
from app.db.tables import Dataset, Import
from app.main import create_app
from app.ports import blobs
from app.ports.parts import Parts
from app.services.health import SILENT
from app.settings import Settings
from tests import hub as hubs
from tests import servers
from tests.hub import Hub
from tests.servers import S3
from tests.waiting import until

DEADLINE_S = 0.3  # instead of half a minute
PATIENCE_S = 60.0  # on a busy machine
ROWS = "/v1/datasets/kept/versions/1/rows"


def table(seed: int) -> bytes:
    lines = [f"{(row * seed) % 97},{row % 13},{'ab'[row % 2]}" for row in range(60)]
    return "\n".join(["width,length,label", *lines, ""]).encode()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of this test's own, for it does not survive."""
    (tmp_path / "store").mkdir()
    with servers.seaweedfs(tmp_path / "store") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubs.serving() as hub:
        hub.put("org/fetched", {"train.csv": table(5)})
        yield hub


@pytest.fixture
def application(settings: Settings, store: S3, hub: Hub) -> Iterator[FastAPI]:
    places = tuple(url.removeprefix("http://") for url in (hub.url, hub.storage))
    changes = {"blobs_url": store.url, "hub_url": hub.url, "outgoing_allow": places}
    application = create_app(Settings(**settings.model_dump() | changes))
    with TestClient(application):
        yield application


@pytest.fixture
def client(application: FastAPI) -> TestClient:
    return TestClient(application, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def impatient(application: FastAPI, store: S3, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same store, which gets less time: all that asks it is to fail, so no machine is too slow."""
    monkeypatch.setattr(blobs, "LONGEST_S", DEADLINE_S)
    monkeypatch.setattr(blobs, "RETRIED_S", DEADLINE_S)
    scratch = application.state.parts.settings.work_dir / "outgoing"
    return blobs.s3_blobs(store.bucket, store.prefix, scratch)._store


def upload(client: TestClient, name: str, seed: int) -> Any:
    return client.post("/v1/datasets", data={"name": name}, files={"file": ("data.csv", table(seed))})


def check_refusals(client: TestClient) -> None:
    """An upload and a download at once: both are told in time what is away."""
    began = time.monotonic()
    with ThreadPoolExecutor(2) as asking:
        sent, read = asking.submit(upload, client, "lost", 3), asking.submit(client.get, ROWS)
        for answer in (sent.result(), read.result()):
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "unavailable"
            assert "object store" in answer.json()["detail"]
            assert answer.headers["retry-after"]
    assert time.monotonic() - began < PATIENCE_S


async def check_readiness(parts: Parts, store: S3) -> None:
    """Many ask whether a store is there that hangs: they are told soon, and share one look at it."""
    readiness = Readiness(DEADLINE_S)
    os.kill(store.pid, signal.SIGSTOP)
    try:
        told = await asyncio.gather(*(readiness.ailments(parts) for _ in range(20)))
        first = readiness._looks["blobs"]
        told.append(await readiness.ailments(parts))
        assert [one["blobs"] for one in told] == [SILENT] * 21
        assert readiness._looks["blobs"] is first
    finally:
        os.kill(store.pid, signal.SIGCONT)
    await first
    assert await Readiness(PATIENCE_S).ailments(parts) == {}


def put_off(one: dict[str, Any]) -> bool:
    """Tried, and in the queue again with what has come."""
    return (one["status"], one["bytes"]) == ("queued", len(table(5))) and one["attempts"] > 0


def test_who_asks_a_store_that_is_away_is_told_and_nothing_is_left_half_written(
    application: FastAPI, client: TestClient, store: S3, impatient: Any
) -> None:
    parts: Parts = application.state.parts
    patient = parts.blobs._store  # type: ignore[attr-defined]
    assert upload(client, "kept", 2).status_code == 201
    assert client.get(ROWS).status_code == 200
    asyncio.run(check_readiness(parts, store))

    os.kill(store.pid, signal.SIGSTOP)
    try:
        parts.blobs._store = impatient  # type: ignore[attr-defined]
        order = {"name": "fetched", "source": "hf:org/fetched"}
        path = client.post("/v1/datasets", json=order).headers["location"]
        check_refusals(client)
        until(lambda: put_off(client.get(path).json()))
    finally:
        parts.blobs._store = patient  # type: ignore[attr-defined]
        os.kill(store.pid, signal.SIGCONT)
    with parts.sessions.write() as session:
        session.execute(update(Import).where(Import.status == "queued").values(available_at=db_now()))
    until(lambda: client.get(path).json()["terminal"])
    assert client.get(path).json()["reference"] == "dataset:fetched@1"
    assert client.get(ROWS).status_code == 200

    for one in parts.blobs.all():
        assert hashlib.sha256(b"".join(parts.blobs.read(one.sha256))).hexdigest() == one.sha256
    parts.blobs._store = impatient  # type: ignore[attr-defined]
    os.kill(store.pid, signal.SIGKILL)
    check_refusals(client)
    with parts.sessions.read() as session:
        assert sorted(session.scalars(select(Dataset.name))) == ["fetched", "kept"]
    until(lambda: not [path for path in parts.settings.work_dir.rglob("*") if path.is_file()])
