"""What a job shows is what stands in its row, however often it was asked for before."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.main import create_app
from app.services import claims, jobs
from app.settings import Settings
from tests import orders


@pytest.fixture
def application(settings: Settings, redis_url: str) -> FastAPI:
    """With its worker elsewhere, so that nobody but this file moves the jobs."""
    return create_app(settings.model_copy(update={"queue_url": redis_url}))


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://127.0.0.1") as client:
        with application.state.parts.sessions.write() as session:
            orders.stock(session)
        yield client


def submit(application: FastAPI) -> str:
    with application.state.parts.sessions.write() as session:
        return str(orders.submit(session, Settings()).id)


def shown(client: TestClient, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}")
    body: dict[str, Any] = answer.json()
    version, _, line = answer.headers["etag"].strip('"').partition(".")
    assert (int(version), bool(line)) == (body["version"], body["waiting"] is not None)
    return body


def test_every_change_is_seen_at_once(application: FastAPI, client: TestClient) -> None:
    job_id = submit(application)
    assert [shown(client, job_id)["status"] for _ in range(2)] == ["queued", "queued"]
    with application.state.parts.sessions.write() as session:
        claimed = claims.claim(session, "worker", ["cpu"], 60.0)
        assert claimed is not None
        attempt = claimed.attempt
    assert [shown(client, job_id)["status"] for _ in range(2)] == ["running", "running"]
    with application.state.parts.sessions.write() as session:
        jobs.start_phase(session, job_id, attempt, "validate")
    assert shown(client, job_id)["phases"][0]["status"] == "running"
    with application.state.parts.sessions.write() as session:
        jobs.report_progress(session, job_id, attempt, phase="validate", fraction=0.5)
    assert shown(client, job_id)["phases"][0]["progress"] == 0.5
    with application.state.parts.sessions.write() as session:
        jobs.cancel(session, orders.PROJECT, job_id, "discard")
    assert shown(client, job_id)["status"] == "cancelling"


def test_a_place_in_line_moves_without_a_change_of_the_job(application: FastAPI, client: TestClient) -> None:
    first, second = submit(application), submit(application)
    waits = {"reason": "capacity", "detail": "no worker is there"}
    assert shown(client, second)["waiting"] == {**waits, "ahead": 1}
    etag = client.get(f"/v1/jobs/{second}").headers["etag"]
    assert client.post(f"/v1/jobs/{first}/cancel").status_code == 202
    assert shown(client, second)["waiting"] == {**waits, "ahead": 0}
    assert client.get(f"/v1/jobs/{second}", headers={"If-None-Match": etag}).status_code == 200


def test_a_deleted_job_is_gone_at_once(application: FastAPI, client: TestClient) -> None:
    job_id = submit(application)
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert shown(client, job_id)["status"] == "cancelled"
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
