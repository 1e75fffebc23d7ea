"""Keys, projects, quotas, usage and the audit log over HTTP, on both databases."""

import csv
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update
from sqlalchemy.exc import DatabaseError

from app.api import events, job_results, lock
from app.db.dialect import db_now
from app.db.tables import AuditEntry, Key
from app.ports.parts import Parts
from app.services import audit
from app.settings import Settings
from tests import keyed, orders
from tests.keyed import OPERATOR
from tests.serving.students import add_plants

Json = dict[str, Any]


@pytest.fixture
def application(settings: Settings, database_url: str) -> Iterator[FastAPI]:
    with keyed.application(settings, database_url) as application:
        yield application


@pytest.fixture
def operator(application: FastAPI) -> TestClient:
    return keyed.client(application)


def refused(answer: Any, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return str(answer.json()["detail"])


# ---- keys


def test_a_key_is_shown_once_used_and_revoked_at_once(
    application: FastAPI, operator: TestClient, settings: Settings, database_url: str
) -> None:
    made = operator.post("/v1/keys", json={"name": "ci", "scopes": ["write", "read"], "expires_in_s": 3600})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    key = body.pop("key")
    assert key.startswith(f"sh_{body['id'].removeprefix('key_')}_")
    assert body["scopes"] == ["read", "write"]
    assert body["created_by"] == "key_first"
    shown = operator.get(made.headers["location"])
    assert shown.json() == body
    assert key not in operator.get("/v1/keys").text
    parts: Parts = application.state.parts
    with parts.sessions.read() as session:
        assert key not in repr([vars(row) for row in session.scalars(select(Key))])

    with keyed.application(settings, database_url) as other_process:
        holders = [keyed.client(application, key), keyed.client(other_process, key)]
        assert [holder.get("/v1/jobs").status_code for holder in holders] == [200, 200]
        assert "'admin'" in refused(holders[0].get("/v1/keys"), 403, "forbidden")
        assert operator.delete(made.headers["location"]).status_code == 204
        assert [holder.get("/v1/jobs").status_code for holder in holders] == [401, 401]
    assert operator.get(made.headers["location"]).json()["revoked_at"] is not None
    assert operator.delete(made.headers["location"]).status_code == 204


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{}/events", "/v1/jobs/{}?wait=1"])
def test_a_revoked_key_reads_no_further(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(lock, "TRUSTED_S", 0.1)
    for module in (job_results, events):
        monkeypatch.setattr(module, "KEEPALIVE_S", 0.1)
    with keyed.application(settings, settings.database_url) as application:
        with application.state.parts.sessions.write() as session:
            orders.stock(session)
        operator, found = keyed.client(application), list[Any]()
        job = operator.post("/v1/jobs", json=orders.spec(resources={"accelerator": "cuda"})).json()["id"]
        made = operator.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()
        reader = keyed.client(application, made["key"])
        headers = {"accept": "text/event-stream"} if "events" in path else {}
        listening = Thread(
            target=lambda: found.append(reader.get(path.format(job), headers=headers)), daemon=True
        )
        listening.start()
        time.sleep(0.5)
        operator.delete(f"/v1/keys/{made['id']}")
        time.sleep(0.2)
        operator.post(f"/v1/jobs/{job}/cancel")
        listening.join(10)
    (answer,) = found
    assert answer.status_code == (200 if headers else 401)
    assert "cancelled" not in answer.text


def test_a_key_ends_by_the_clock_of_the_database(application: FastAPI, operator: TestClient) -> None:
    brief = keyed.with_scopes(operator, application, ["read"], expires_in_s=3600)
    assert brief.get("/v1/jobs").status_code == 200
    with application.state.parts.sessions.write() as session:
        session.execute(update(Key).where(Key.name == "made").values(expires_at=db_now()))
    assert brief.get("/v1/jobs").status_code == 401
    over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    answer = operator.post("/v1/keys", json={"name": "late", "scopes": ["read"], "expires_at": over})
    assert refused(answer, 422, "invalid_request")
    assert len(operator.get("/v1/keys").json()["data"]) == 2


def test_a_moment_without_its_zone_is_told_how_it_is_written(operator: TestClient) -> None:
    order = {"name": "a", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00"}
    (fault,) = operator.post("/v1/keys", json=order).json()["errors"]
    assert fault["pointer"] == "/expires_at"
    assert fault["fix"].endswith("2030-12-31T23:00:00Z.")


def test_a_project_s_name_is_taken_once(application: FastAPI, operator: TestClient) -> None:
    keyed.make_project(application, "lab")
    answer = operator.post("/v1/projects", json={"name": "lab"})
    assert "'lab' already" in refused(answer, 409, "state_conflict")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/name"]


@pytest.mark.parametrize(
    "order",
    [
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["root"]},
        {"name": "", "scopes": ["read"]},
        {"name": "bootstrap", "scopes": ["read"]},
        {"name": "a", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00"},
        {"name": "a", "scopes": ["read"], "expires_in_s": 5, "expires_at": "2099-01-01T00:00:00Z"},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(settings: Settings, order: Json) -> None:
    with keyed.application(settings, settings.database_url) as application:
        assert keyed.client(application).post("/v1/keys", json=order).status_code == 422


def test_keys_come_in_pages_and_the_first_one_stays(operator: TestClient) -> None:
    for name in "abc":
        operator.post("/v1/keys", json={"name": name, "scopes": ["read"]})
    page = operator.get("/v1/keys?limit=2").json()
    rest = operator.get("/v1/keys", params={"limit": 2, "after": page["next"]}).json()
    assert {one["name"] for one in page["data"] + rest["data"]} == {"a", "b", "c", "bootstrap"}
    assert not rest["has_more"]
    assert refused(operator.delete("/v1/keys/key_first"), 409, "state_conflict")


# ---- projects, quotas


def test_only_the_operator_makes_projects(application: FastAPI, operator: TestClient) -> None:
    project_id, owner = keyed.make_project(application, "vision", max_queued_jobs=1)
    assert "operator" in refused(owner.get("/v1/projects"), 403, "forbidden")
    assert owner.get("/metrics").status_code == 403
    assert refused(operator.post("/v1/projects", json={"name": "vision"}), 409, "state_conflict")
    changed = operator.patch(f"/v1/projects/{project_id}", json={"max_bytes": 5, "max_queued_jobs": None})
    assert (changed.json()["max_bytes"], changed.json()["max_queued_jobs"]) == (5, None)
    assert {one["name"] for one in operator.get("/v1/projects").json()["data"]} == {"default", "vision"}
    lost = operator.post(f"/v1/projects/{project_id}/keys", json={"name": "n", "scopes": ["read"]})
    assert keyed.client(application, lost.json()["key"]).get("/v1/jobs").status_code == 200


def test_quotas_refuse_what_is_over_them_and_the_plan_says_so(
    application: FastAPI, operator: TestClient
) -> None:
    project_id, owner = keyed.make_project(application, "small", max_queued_jobs=1)
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        orders.stock(session, project_id)
    order = orders.spec(resources={"accelerator": "cuda"})

    def limited(**quotas: Any) -> Json:
        """The plan's failed checks, once it has just these quotas."""
        gone = {"max_queued_jobs": None, "max_bytes": None, "max_gpu_s": None, "max_parameters": None}
        assert operator.patch(f"/v1/projects/{project_id}", json={**gone, **quotas}).status_code == 200
        plan = owner.post("/v1/jobs/plan", json=order).json()
        return {one["code"]: one for one in plan["checks"] if one["status"] == "fail"} | {"ok": plan["ok"]}

    assert owner.post("/v1/jobs", json=order).status_code == 202
    answer = owner.post("/v1/jobs", json=order)
    assert "queued jobs of this project: 1, allowed: 1" in refused(answer, 429, "quota_exceeded")
    assert answer.headers["retry-after"] == "30"
    assert limited(max_queued_jobs=1)["quota_exceeded"]["fix"].startswith("Wait")

    assert limited(max_gpu_s=0)["quota_exceeded"]["pointer"] == "/resources/accelerator"
    answer = owner.post("/v1/jobs", json=order)
    assert refused(answer, 429, "quota_exceeded")
    assert 0 < int(answer.headers["retry-after"]) <= 31 * 86_400 + 1
    without = orders.spec(resources={"accelerator": "cpu"})
    assert owner.post("/v1/jobs/plan", json=without).json()["ok"]

    stored = owner.get("/v1/usage").json()["standing"]["limited_bytes"]
    assert stored == 2010
    assert limited(max_bytes=stored)["quota_exceeded"]
    rows = io.BytesIO(b"height,species\n" + b"1,a\n2,b\n" * 30)
    upload = {"data": {"name": "plants", "label": "species"}, "files": {"file": ("plants.csv", rows)}}
    answer = owner.post("/v1/datasets", **upload)  # type: ignore[arg-type]
    assert f"{stored:,} bytes" in refused(answer, 429, "quota_exceeded")
    assert "retry-after" not in answer.headers

    assert limited(max_parameters=10)["will_not_fit"]
    assert refused(owner.post("/v1/jobs", json=order), 422, "will_not_fit")
    assert limited()["ok"]
    assert owner.get("/v1/usage").json()["limits"]["max_bytes"] is None


# ---- rate limits


def test_a_key_that_asks_too_often_waits_and_others_do_not(settings: Settings) -> None:
    limits = {"rate_limit_requests": "3/minute", "rate_limit_predictions": "1/hour"}
    with keyed.application(settings, settings.database_url, **limits) as application:
        operator = keyed.client(application)
        holder = keyed.with_scopes(operator, application, ["read", "predict"])
        answers = [holder.get("/v1/jobs") for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
        assert answers[0].headers["ratelimit"].startswith('"requests";r=2;t=')
        last = answers[3]
        assert refused(last, 429, "rate_limited")
        assert last.headers["ratelimit"].startswith('"requests";r=0;t=')
        assert 0 < int(last.headers["retry-after"]) <= 60
        assert keyed.client(application, OPERATOR).get("/v1/jobs").status_code == 200
        tried = [holder.post("/predict", json={"model": "none", "inputs": [[1]]}) for _ in range(2)]
        assert [one.status_code for one in tried] == [404, 429]
        assert tried[0].headers["ratelimit-policy"] == '"predictions";q=1;w=3600'


# ---- usage


def test_predictions_and_uses_of_keys_are_counted(application: FastAPI, operator: TestClient) -> None:
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        add_plants(session, parts.blobs)
    asked = {"model": "plants", "inputs": [{"height": 14, "color": "yellow"}, [6, "red"]]}
    for _ in range(3):
        assert operator.post("/predict", json=asked).status_code == 200
    application.state.meter._try_to_write()
    (day,) = operator.get("/v1/usage").json()["days"]
    assert (day["predictions"], day["predicted_rows"]) == (3, 6)
    assert operator.get("/v1/keys/key_first").json()["last_used_at"] is not None
    (row,) = csv.DictReader(io.StringIO(operator.get("/v1/usage?format=csv").text))
    assert (row["project_id"], row["predicted_rows"]) == ("prj_default", "6")

    _, other = keyed.make_project(application, "other")
    assert other.get("/v1/usage").json()["days"] == []
    assert refused(other.get("/v1/usage?project=prj_default"), 404, "not_found")
    assert len(operator.get("/v1/usage?project=all").json()["days"]) == 1
    assert refused(operator.get("/v1/usage?from=2026-02-01&to=2026-01-01"), 422, "invalid_request")


# ---- the audit log


def test_writes_and_denials_are_written_down_with_who_and_what(
    application: FastAPI, operator: TestClient
) -> None:
    project_id, owner = keyed.make_project(application, "watched")
    reader = keyed.with_scopes(owner, application, ["read"])
    secret = "a-name-that-only-the-body-has"
    sent = owner.post("/v1/webhooks", json={"url": "https://hooks.example/", "description": secret})
    assert sent.status_code == 201
    assert owner.post("/v1/jobs/job_0/cancel").status_code == 404
    assert reader.delete("/v1/jobs/job_0").status_code == 403
    assert reader.get("/v1/jobs").status_code == 200
    assert keyed.client(application, None).get("/v1/jobs?secret=1").status_code == 401

    seen = owner.get("/v1/audit").json()["data"]
    told = [(one["method"], one["route"], one["path"], one["status"], one["code"]) for one in seen]
    key_path = next(one["path"] for one in seen if one["route"] == "/v1/keys")
    assert told == [
        ("DELETE", "/v1/jobs/{job_id}", "/v1/jobs/job_0", 403, "forbidden"),
        ("POST", "/v1/jobs/{job_id}/cancel", "/v1/jobs/job_0/cancel", 404, "not_found"),
        ("POST", "/v1/webhooks", sent.headers["location"], 201, None),
        ("POST", "/v1/keys", key_path, 201, None),
    ]
    assert key_path.startswith("/v1/keys/key_")
    assert seen[2]["request_id"] == sent.headers["x-request-id"]
    assert {one["project_id"] for one in seen} == {project_id}
    by_key = owner.get("/v1/audit", params={"key": seen[0]["key_id"]}).json()["data"]
    assert [one["method"] for one in by_key] == ["DELETE"]
    later = owner.get("/v1/audit", params={"from": seen[2]["at"], "limit": 2}).json()
    assert (len(later["data"]), later["has_more"]) == (2, True)

    of_all = operator.get("/v1/audit").json()["data"]
    assert (of_all[0]["project_id"], of_all[0]["status"], of_all[0]["path"]) == (None, 401, "/v1/jobs")
    parts: Parts = application.state.parts
    with parts.sessions.read() as session:
        kept = json.dumps([str(vars(one)) for one in session.scalars(select(AuditEntry))])
    assert secret not in kept
    assert "sh_" not in kept


def test_no_stranger_keeps_denials_out_of_the_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "DENIALS", 3)
    monkeypatch.setattr(audit, "time", SimpleNamespace(monotonic=lambda: 600.0))
    with keyed.application(settings, settings.database_url) as application:
        stranger, operator = keyed.client(application, None), keyed.client(application)
        _, neighbor = keyed.make_project(application, "neighbor")
        for _ in range(5):
            assert stranger.get("/v1/jobs").status_code == 401
            assert neighbor.get("/v1/projects").status_code == 403
        reader = keyed.with_scopes(operator, application, ["read"])
        assert reader.get("/v1/keys").status_code == 403
        denied = [one for one in operator.get("/v1/audit").json()["data"] if one["status"] in audit.DENIED]
    assert [one["path"] for one in denied].count("/v1/keys") == 1
    assert len(denied) == 3 + 3 + 1


@pytest.mark.parametrize("statement", ["UPDATE audit SET status = 200", "DELETE FROM audit"])
def test_nobody_changes_the_audit_log(application: FastAPI, operator: TestClient, statement: str) -> None:
    operator.post("/v1/keys", json={"name": "a", "scopes": ["read"]})
    parts: Parts = application.state.parts
    with pytest.raises(DatabaseError), parts.sessions.write() as session:
        session.execute(text(statement))
    assert len(operator.get("/v1/audit").json()["data"]) == 1


def test_the_page_for_people_needs_no_key_and_asks_for_one(settings: Settings) -> None:
    with keyed.application(settings, settings.database_url) as application:
        nobody = keyed.client(application, None)
        assert nobody.get("/docs").status_code == 200
        schema = nobody.get("/openapi.json").json()
        assert schema["security"] == [{"key": []}]
        assert schema["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
