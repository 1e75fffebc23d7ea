"""Pause, resume, retry, clone, checkpoints and logs over HTTP, with the test in the worker's place."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete

from app.api.job_views import JobView
from app.db.session import Sessions
from app.db.tables import JobCheckpoint
from app.ports.blobs import Blobs
from app.services import attempt_logs, checkpoints, claims, jobs
from tests import orders


def submitted(client: TestClient, **changes: Any) -> str:
    answer = client.post("/v1/jobs", json=orders.spec(resources={"accelerator": "cuda"}, **changes))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def did(client: TestClient, job_id: str, verb: str, **request: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/jobs/{job_id}/{verb}", **request)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    JobView.model_validate(job)
    return job


def seen(client: TestClient, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


def claimed(database: Sessions) -> None:
    with database.write() as session:
        assert claims.claim(session, "me", ("cuda",), 60.0) is not None


def saved(database: Sessions, job_id: str, *steps: int, best: int = 0, attempt: int = 1) -> None:
    with database.write() as session:
        for step in steps:
            checkpoints.save(
                session,
                job_id,
                attempt,
                step=step,
                manifest=f"{step:064}",
                size=10 * step,
                best=step == best,
                metrics={"accuracy": 0.5},
            )


def failed(database: Sessions, job_id: str, attempt: int = 1) -> None:
    with database.write() as session:
        jobs.fail(session, job_id, attempt, {"code": "x", "detail": "it broke", "phase": "train"})


def test_a_waiting_job_is_paused_and_resumed_at_once(client: TestClient, database: Sessions) -> None:
    job_id = submitted(client)
    paused = did(client, job_id, "pause")
    assert (paused["status"], paused["terminal"], paused["waiting"]) == ("paused", False, None)
    assert did(client, job_id, "pause")["version"] == paused["version"]
    with database.write() as session:
        assert claims.claim(session, "me", ("cuda",), 60.0) is None
    assert did(client, job_id, "resume")["status"] == "queued"
    claimed(database)


def test_a_running_job_is_pausing_until_its_worker_lets_go(client: TestClient, database: Sessions) -> None:
    job_id = submitted(client)
    claimed(database)
    saved(database, job_id, 40)
    assert did(client, job_id, "pause")["status"] == "pausing"
    assert did(client, job_id, "resume")["status"] == "running"
    did(client, job_id, "pause")
    with database.write() as session:
        jobs.yield_(session, job_id, 1, why="paused by its user")
    paused = seen(client, job_id)
    assert (paused["status"], paused["checkpoint"], paused["interruptions"]) == ("paused", {"step": 40}, 1)
    assert did(client, job_id, "resume")["status"] == "queued"


def test_what_is_kept_of_a_waiting_job_is_finished_from_its_checkpoint(
    client: TestClient, database: Sessions
) -> None:
    job_id = submitted(client)
    claimed(database)
    saved(database, job_id, 40)
    with database.write() as session:
        jobs.yield_(session, job_id, 1)
    did(client, job_id, "pause")
    job = did(client, job_id, "cancel", json={"mode": "keep"})
    assert (job["status"], job["terminal"]) == ("queued", False)
    assert client.post(f"/v1/jobs/{job_id}/pause").status_code == 409
    claimed(database)
    with database.write() as session:
        assert jobs.renew(session, job_id, 2, 60.0).desired == "finish"
    assert seen(client, job_id)["status"] == "cancelling"


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
def test_what_the_state_does_not_allow_is_a_conflict_that_says_so(
    client: TestClient, database: Sessions, verb: str
) -> None:
    job_id = submitted(client)
    if verb == "pause":
        client.post(f"/v1/jobs/{job_id}/cancel")
    answer = client.post(f"/v1/jobs/{job_id}/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
    assert f"Job {job_id} is {'cancelled' if verb == 'pause' else 'queued'}" in answer.json()["detail"]


def test_of_a_job_that_is_not_there_nothing_can_be_asked(client: TestClient) -> None:
    for verb in ("pause", "resume", "retry", "clone"):
        assert client.post(f"/v1/jobs/job_none/{verb}").status_code == 404
    for part in ("checkpoints", "logs"):
        assert client.get(f"/v1/jobs/job_none/{part}").status_code == 404


def test_a_retry_is_a_new_job_that_begins_at_the_last_checkpoint(
    client: TestClient, database: Sessions
) -> None:
    old = submitted(client, name="first")
    claimed(database)
    saved(database, old, 10, 20, 30, best=10)
    failed(database, old)
    before = seen(client, old)
    new = did(client, old, "retry")
    assert (new["parent"], new["status"], new["attempts"]) == (old, "queued", 0)
    assert (new["checkpoint"], new["name"], new["spec"]) == ({"step": 30}, "first", before["spec"])
    assert new["resolved"] == before["resolved"]
    kept = client.get(f"/v1/jobs/{new['id']}/checkpoints").json()["data"]
    assert [(one["step"], one["best"], one["attempt"]) for one in kept] == [
        (30, False, 0), (20, False, 0), (10, True, 0),
    ]  # fmt: skip
    assert seen(client, old) == before
    claimed(database)
    saved(database, new["id"], 40)
    assert seen(client, new["id"])["checkpoint"] == {"step": 40}
    assert client.delete(f"/v1/jobs/{old}").status_code == 204


def test_a_retry_of_a_job_whose_checkpoints_are_swept_begins_anew(
    client: TestClient, database: Sessions
) -> None:
    old = submitted(client)
    claimed(database)
    saved(database, old, 10)
    failed(database, old)
    with database.write() as session:
        session.execute(delete(JobCheckpoint))
    new = did(client, old, "retry")
    assert new["checkpoint"] is None
    claimed(database)
    saved(database, new["id"], 5)  # it is kept, though the old job got further


def test_a_retry_under_one_key_is_one_job(client: TestClient, database: Sessions) -> None:
    old, other = submitted(client), submitted(client)
    for job_id in (old, other):
        client.post(f"/v1/jobs/{job_id}/cancel")
    headers = {"Idempotency-Key": "again"}
    new = did(client, old, "retry", headers=headers)
    assert did(client, old, "retry", headers=headers)["id"] == new["id"]
    assert client.post(f"/v1/jobs/{other}/retry", headers=headers).json()["code"] == "idempotency_key_reused"


def test_a_clone_is_the_order_as_it_was_sent_with_changes(client: TestClient) -> None:
    old = submitted(client, name="first", labels={"a": "1", "b": "2"})
    overrides = {"training": {"epochs": 3}, "name": None, "labels": {"b": None, "c": "3"}}
    headers = {"Idempotency-Key": "copy"}
    new = did(client, old, "clone", json={"overrides": overrides}, headers=headers)
    assert (new["parent"], new["labels"], new["checkpoint"]) == (old, {"a": "1", "c": "3"}, None)
    assert new["spec"]["training"] == {"batch_size": 16, "epochs": 3}
    assert "name" not in new["spec"]
    assert did(client, old, "clone", json={"overrides": overrides}, headers=headers)["id"] == new["id"]
    assert did(client, old, "clone")["spec"] == seen(client, old)["spec"]


@pytest.mark.parametrize(
    ("overrides", "pointer"),
    [
        ({"training": {"epochs": 0}}, "/training/epochs"),
        ({"trainin": {}}, "/trainin"),
        ({"task": None}, "/task"),
        ({"teachers": [{"model": "model:nobody"}]}, "/teachers/0/model"),
        ({"student": "small"}, "/student"),
    ],
)
def test_a_clone_that_is_no_order_is_refused_with_the_place(
    client: TestClient, overrides: dict[str, Any], pointer: str
) -> None:
    old = submitted(client)
    answer = client.post(f"/v1/jobs/{old}/clone", json={"overrides": overrides})
    assert answer.status_code == 422, answer.text
    assert pointer in {one["pointer"] for one in answer.json()["errors"]}
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_the_last_two_checkpoints_and_the_best_are_kept(client: TestClient, database: Sessions) -> None:
    job_id = submitted(client)
    assert client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == []
    claimed(database)
    saved(database, job_id, 10)
    saved(database, job_id, 20, 30, 40, 50, best=20)
    kept = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    assert [(one["step"], one["best"], one["size"]) for one in kept] == [
        (50, False, 500), (40, False, 400), (20, True, 200),
    ]  # fmt: skip
    told = client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [one["data"]["step"] for one in told if one["type"] == "checkpoint.saved"] == [10, 20, 30, 40, 50]


def test_what_an_attempt_changed_is_shown_and_warned_of(client: TestClient, database: Sessions) -> None:
    job_id = submitted(client)
    claimed(database)
    with database.write() as session:
        jobs.adjust(session, job_id, 1, {"micro_batch_size": 8}, "the batch is halved")
        jobs.adjust(session, job_id, 1, {"lr_halvings": 1}, "the rate is halved")
    assert seen(client, job_id)["adjustments"] == {"micro_batch_size": 8, "lr_halvings": 1}
    warnings = [
        one for one in client.get(f"/v1/jobs/{job_id}/events").json()["data"] if one["type"] == "warning"
    ]
    assert [one["message"] for one in warnings] == ["the batch is halved", "the rate is halved"]


def test_logs_are_read_by_attempt(client: TestClient, database: Sessions, blobs: Blobs) -> None:
    job_id = submitted(client)
    path = f"/v1/jobs/{job_id}/logs"
    assert client.get(path).status_code == 409
    claimed(database)
    for attempt in (1, 2):
        blob = blobs.put([f"line of attempt {attempt}\n".encode()])
        with database.write() as session:
            attempt_logs.add(session, job_id, attempt, sha256=blob.sha256, size=blob.size)
    newest = client.get(path)
    assert (newest.text, newest.headers["content-type"]) == (
        "line of attempt 2\n",
        "text/plain; charset=utf-8",
    )
    assert client.get(f"{path}?attempt=1").text == "line of attempt 1\n"
    missing = client.get(f"{path}?attempt=7")
    assert (missing.status_code, "its attempts 1, 2" in missing.json()["detail"]) == (404, True)
    failed(database, job_id)
    tail = seen(client, job_id)["error"]["log_tail"]
    assert tail[-1].endswith(" info attempt 1 started")


@pytest.mark.parametrize("deed", ["pause", "resume", "retry"])
def test_a_deed_that_takes_nothing_refuses_what_belongs_to_another(client: TestClient, deed: str) -> None:
    job = submitted(client)
    answer = client.post(f"/v1/jobs/{job}/{deed}", json={"overrides": {"seed": 1}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/overrides")
