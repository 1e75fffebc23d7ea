"""Job routes over HTTP, with no worker at hand: what they accept, refuse, list and wait for."""

import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.job_views import JobView
from app.db.session import Sessions
from app.services import claims, jobs
from app.services.jobs import Point
from tests import orders


def spec(**changes: Any) -> dict[str, Any]:
    return orders.spec(resources={"accelerator": "cuda"}, **changes)


def submitted(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=spec(**changes))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_looks_as_its_schema_says(client: TestClient) -> None:
    job = submitted(client, name="first", labels={"team": "a"})
    JobView.model_validate(job)
    assert set(job) == set(JobView.model_fields)
    waits = {"reason": "capacity", "detail": "no worker that offers cuda is there"}
    second = submitted(client)
    assert job["waiting"] == second["waiting"] == {**waits, "ahead": None}
    assert client.get(f"/v1/jobs/{job['id']}").json()["waiting"] == {**waits, "ahead": 0}
    assert client.get(f"/v1/jobs/{second['id']}").json()["waiting"] == {**waits, "ahead": 1}


def test_a_job_without_teachers_is_refused_unless_its_students_teach_themselves(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=orders.spec(teachers=[]))
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/teachers"]
    assert "mutual or self_ema" in answer.json()["errors"][0]["fix"]
    job = submitted(client, teachers=[], scheme={"kind": "mutual"})
    assert job["resolved"]["teachers"] == []


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"epochs": 3}, "/epochs", "invalid_spec"),
        ({"training": {"epocs": 3}}, "/training/epocs", "invalid_spec"),
        ({"training": {"epochs": 0}}, "/training/epochs", "invalid_spec"),
        ({"losses": [{"kind": "kdd"}]}, "/losses/0/kind", "invalid_spec"),
        ({"losses": [{"kind": "kd", "temprature": 2}]}, "/losses/0/temprature", "invalid_spec"),
        (
            {"student": {"architecture": {"kind": "mlp", "hidden_sizes": [0]}}},
            "/student/architecture/hidden_sizes/0",
            "invalid_spec",
        ),
        ({"teachers": [{"model": "model:botanist"}] * 9}, "/teachers", "invalid_spec"),
        ({"teachers": [{"model": "../etc/passwd"}]}, "/teachers/0/model", "invalid_spec"),
        ({"teachers": [{"model": "model:nobody"}]}, "/teachers/0/model", "unknown_reference"),
        ({"exports": [{"kind": "onnx"}, {"kind": "onnx"}]}, "/exports", "invalid_spec"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_place_and_the_way_out(
    client: TestClient, change: dict[str, Any], pointer: str, code: str
) -> None:
    for path in ("/v1/jobs", "/v1/jobs/plan"):
        if path.endswith("plan") and code != "invalid_spec":
            continue  # a plan is answered with its failed checks
        answer = client.post(path, json=orders.spec(**change))
        assert answer.status_code == 422, answer.text
        body = answer.json()
        assert body["code"] == code
        assert pointer in {one["pointer"] for one in body["errors"]}, body["errors"]
        assert all(one["fix"] for one in body["errors"]), body["errors"]
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_plan_answers_its_checks_and_stores_nothing(client: TestClient) -> None:
    plan = client.post("/v1/jobs/plan", json=orders.spec(teachers=[{"model": "model:nobody"}])).json()
    assert (plan["ok"], plan["resolved"]) == (False, None)
    failed = [check for check in plan["checks"] if check["status"] == "fail"]
    assert [(one["pointer"], one["code"]) for one in failed] == [("/teachers/0/model", "unknown_reference")]
    assert client.post("/v1/jobs/plan", json=orders.spec()).json()["ok"]
    assert client.get("/v1/jobs").json()["data"] == []


def test_an_idempotency_key_with_another_body_is_refused(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/v1/jobs", json=spec(), headers=headers)
    assert client.post("/v1/jobs", json=spec(), headers=headers).json()["id"] == first.json()["id"]
    answer = client.post("/v1/jobs", json=spec(name="other"), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_list_is_paged_and_narrowed(client: TestClient) -> None:
    ids = [submitted(client, name=f"job {n}", labels={"n": str(n)})["id"] for n in range(5)][::-1]
    first = client.get("/v1/jobs?limit=2").json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = client.get(f"/v1/jobs?limit=4&after={first['next']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
    for query, found in {
        "label.n=3": [ids[1]],
        "q=JOB%204": [ids[0]],
        f"q={ids[2]}": [ids[2]],
        "status=succeeded": [],
        "status=queued&status=failed&label.n=0": [ids[4]],
        "model=model:botanist": ids,
        "task=image_classification": [],
    }.items():
        listed = client.get(f"/v1/jobs?{query}").json()["data"]
        assert [one["id"] for one in listed] == found, query


@pytest.mark.parametrize(
    "query", ["status=done", "limit=0", "limit=201", "after=x", "task=x", "model=model:x"]
)
def test_a_wrong_query_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/v1/jobs?{query}").status_code == 422


def test_a_long_poll_answers_when_the_job_changes(client: TestClient) -> None:
    job = submitted(client)
    started = time.monotonic()
    threading.Timer(0.5, client.post, [f"/v1/jobs/{job['id']}/cancel"]).start()
    seen = client.get(f"/v1/jobs/{job['id']}?wait=30&version={job['version']}").json()
    assert (seen["status"], seen["terminal"]) == ("cancelled", True)
    assert time.monotonic() - started < 20
    assert client.get(f"/v1/jobs/{job['id']}?wait=30").json()["version"] == seen["version"]  # at once


def test_a_long_poll_without_a_change_answers_what_there_is(client: TestClient) -> None:
    job = submitted(client)
    assert client.get(f"/v1/jobs/{job['id']}?wait=0.2").json()["version"] == job["version"]


def test_cancelling_again_is_a_conflict(client: TestClient) -> None:
    job = submitted(client)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409
    assert client.post(f"/v1/jobs/{job['id']}/cancel", json={"mode": "maybe"}).status_code == 422


def test_events_are_answered_behind_a_number(client: TestClient) -> None:
    job = submitted(client)
    client.post(f"/v1/jobs/{job['id']}/cancel")
    whole = client.get(f"/v1/jobs/{job['id']}/events").json()
    assert [one["type"] for one in whole["data"]] == ["job.created", "job.status", "job.ended"]
    page = client.get(f"/v1/jobs/{job['id']}/events?after=1&limit=1").json()
    assert (page["data"], page["has_more"], page["next"]) == ([whole["data"][1]], True, "2")
    resumed = client.get(f"/v1/jobs/{job['id']}/events?after=1", headers={"Last-Event-ID": "2"}).json()
    assert resumed["data"] == whole["data"][2:]
    assert client.get(f"/v1/jobs/{job['id']}/events?after={2**31}").status_code == 422


def test_metrics_are_thinned_with_their_last_point_kept(client: TestClient, database: Sessions) -> None:
    job = submitted(client)
    with database.write() as session:
        claims.claim(session, "me", ("cuda",), 60.0)
        jobs.start_phase(session, job["id"], 1, "train")
        points = [Point("loss", "train", step, 1 / (step + 1)) for step in range(1000)]
        points.append(Point("accuracy", "validation", 999, 0.5))
        jobs.report_progress(session, job["id"], 1, phase="train", fraction=0.5, points=points)
    path = f"/v1/jobs/{job['id']}/metrics"
    series = client.get(f"{path}?max_points=10").json()["data"]
    assert [(one["name"], len(one["points"])) for one in series] == [("accuracy", 1), ("loss", 10)]
    steps = [point["step"] for point in series[1]["points"]]
    assert (steps[0], steps[-1]) == (99, 999)
    assert len(client.get(f"{path}?name=loss&format=csv").text.splitlines()) == 1001


def test_what_is_not_there_yet_is_a_conflict_and_what_never_is_is_not_found(client: TestClient) -> None:
    job = submitted(client)
    assert client.get(f"/v1/jobs/{job['id']}/report").status_code == 409
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.get(f"/v1/jobs/{job['id']}/report").status_code == 404
    assert client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"] == []
    for path in ("", "/events", "/metrics", "/report", "/rows", "/artifacts", "/artifacts/report.json"):
        assert client.get(f"/v1/jobs/job_none{path}").status_code == 404


def test_a_dataset_that_a_job_uses_cannot_be_deleted(client: TestClient) -> None:
    job = submitted(client)
    assert client.delete("/v1/datasets/iris/versions/1").status_code == 409
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.delete("/v1/datasets/iris/versions/1").status_code == 204


def test_a_list_is_filtered_by_a_few_labels_at_once(client: TestClient) -> None:
    answer = client.get("/v1/jobs?" + "&".join(f"label.{place}=x" for place in range(1000)))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "too_many")
