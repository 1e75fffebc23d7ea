"""Sweep routes over HTTP, with no worker at hand: what they accept, refuse, list and wait for."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.sweep_views import SweepSummary, SweepView, TrialView
from app.db.session import Sessions
from app.services import claims, jobs
from tests import orders

SPACE = {"/losses/temperature": {"kind": "float", "low": 1, "high": 8, "log": True}}


def order(**changes: Any) -> dict[str, Any]:
    spec = orders.spec(resources={"accelerator": "cuda"}, losses={"preset": "hinton"})
    return {"spec": spec, "space": SPACE, **changes}


def submitted(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/sweeps", json=order(**changes))
    assert answer.status_code == 202, answer.text
    sweep: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/sweeps/{sweep['id']}"
    return sweep


def awaited(client: TestClient, sweep_id: str, when: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The sweep as soon as it is so, by long polls."""
    sweep: dict[str, Any] = client.get(f"/v1/sweeps/{sweep_id}").json()
    deadline = time.monotonic() + 30
    while not when(sweep):
        assert time.monotonic() < deadline, sweep
        sweep = client.get(f"/v1/sweeps/{sweep_id}?wait=10&version={sweep['version']}").json()
    return sweep


def begun(sweep: dict[str, Any]) -> bool:
    return bool(sweep["trials"]["begun"])


def ended(sweep: dict[str, Any]) -> bool:
    return bool(sweep["terminal"])


def test_a_sweep_and_its_trials_look_as_their_schemas_say(client: TestClient) -> None:
    sweep = submitted(client, name="first", labels={"team": "a"})
    assert set(sweep) == set(SweepView.model_fields)
    sweep = awaited(client, sweep["id"], begun)
    SweepView.model_validate(sweep)
    assert (sweep["name"], sweep["labels"], sweep["spec"]) == ("first", {"team": "a"}, order()["spec"])
    assert (sweep["front"], sweep["best"], sweep["metric"]) == ([], None, None)
    trial = client.get(sweep["links"]["trials"]).json()["data"][0]
    TrialView.model_validate(trial)
    assert set(trial) == set(TrialView.model_fields)
    assert trial["parameters"] == {"/losses/temperature": 4.0}
    job = client.get(trial["links"]["job"]).json()
    assert job["labels"] == {"team": "a", "sweep": sweep["id"], "trial": "0"}
    assert [one["id"] for one in client.get(sweep["links"]["jobs"]).json()["data"]] == [job["id"]]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"space": {}}, "/space"),
        ({"space": {"losses": SPACE["/losses/temperature"]}}, "/space/losses"),
        ({"space": {"/losses": {"kind": "flaot", "low": 1, "high": 2}}}, "/space/~1losses/kind"),
        ({"space": {"/a/b": {"kind": "float", "low": 2, "high": 1}}}, "/space/~1a~1b"),
        ({"space": {"/a/b": {"kind": "float", "low": 0, "high": 1, "log": True}}}, "/space/~1a~1b"),
        ({"space": {"/a/b": {"kind": "int", "low": 0, "high": 5, "step": 2}}}, "/space/~1a~1b"),
        ({"space": {"/a/b": {"kind": "choice", "values": []}}}, "/space/~1a~1b/values"),
        ({"space": {"/a/b": {"kind": "choice", "values": [1, 1]}}}, "/space/~1a~1b"),
        ({"space": {one: {"kind": "choice", "values": [1]} for one in ("/a", "/a/b")}}, "/space"),
        ({"budget": {"trials": 0}}, "/budget/trials"),
        ({"budget": {"trials": 501}}, "/budget/trials"),
        ({"budget": {"max_hours": 10_000}}, "/budget/max_hours"),
        ({"budget": {"trails": 3}}, "/budget/trails"),
        ({"objective": {"metric": "beauty"}}, "/objective/metric"),
        ({"pruning": {"kind": "median", "startup_trials": 0}}, "/pruning/startup_trials"),
        ({"spec": {}}, "/spec/task"),
        ({"spec": orders.spec(training={"epocs": 3})}, "/spec/training/epocs"),
        ({"spec": orders.spec(teachers=[{"model": "model:nobody"}])}, "/spec/teachers/0/model"),
        ({"space": {"/losses/beta": SPACE["/losses/temperature"]}}, "/space/~1losses~1beta"),
    ],
    ids=str,
)
def test_a_wrong_sweep_is_refused_with_the_place_and_the_way_out(
    client: TestClient, change: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/sweeps", json=order(**change))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    errors = {one["pointer"]: one for one in answer.json()["errors"]}
    assert pointer in errors, errors
    assert errors[pointer]["fix"], errors
    assert client.get("/v1/sweeps").json()["data"] == []


def test_a_plan_answers_its_checks_and_stores_nothing(client: TestClient) -> None:
    plan = client.post("/v1/sweeps/plan", json=order(budget={"trials": 7})).json()
    assert (plan["ok"], plan["trials"]) == (True, 7)
    assert plan["estimate"]["student_parameters"] > 0
    wrong = client.post("/v1/sweeps/plan", json=order(space={"/x": {"kind": "choice", "values": [1]}})).json()
    failed = [check for check in wrong["checks"] if check["status"] == "fail"]
    assert (wrong["ok"], [one["pointer"] for one in failed]) == (False, ["/space/~1x"])
    assert client.get("/v1/sweeps").json()["data"] == []


def test_an_idempotency_key_stands_for_one_sweep(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/v1/sweeps", json=order(), headers=headers)
    assert client.post("/v1/sweeps", json=order(), headers=headers).json()["id"] == first.json()["id"]
    for path, body in (("/v1/sweeps", order(seed=3)), ("/v1/jobs", order()["spec"])):
        answer = client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_list_is_paged_and_narrowed(client: TestClient) -> None:
    ids = [submitted(client, name=f"sweep {n}", budget={"trials": 1})["id"] for n in range(4)][::-1]
    first = client.get("/v1/sweeps?limit=3").json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:3], True)
    assert all(set(one) == set(SweepSummary.model_fields) for one in first["data"])
    rest = client.get(f"/v1/sweeps?limit=3&after={first['next']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[3:], False)
    client.post(f"/v1/sweeps/{ids[1]}/cancel")
    awaited(client, ids[1], ended)
    for query, found in {
        "q=SWEEP%203": [ids[0]],
        f"q={ids[2]}": [ids[2]],
        "status=cancelled": [ids[1]],
        "status=running&status=cancelled": ids,
        "status=failed": [],
    }.items():
        listed = client.get(f"/v1/sweeps?{query}").json()["data"]
        assert [one["id"] for one in listed] == found, query
    for query in ("status=done", "after=x", "limit=0"):
        assert client.get(f"/v1/sweeps?{query}").status_code == 422


def test_trials_are_paged_in_their_order(client: TestClient, database: Sessions) -> None:
    sweep = submitted(client, budget={"trials": 5, "parallel": 5})
    awaited(client, sweep["id"], begun)
    with database.write() as session:
        job = claims.claim(session, "me", ("cuda",), 600.0)
        assert job is not None
        for phase in ("validate", "fetch", "preflight", "signals"):
            jobs.start_phase(session, job.id, 1, phase)
            jobs.end_phase(session, job.id, 1, phase)
    awaited(client, sweep["id"], lambda sweep: sweep["trials"]["begun"] == 5)
    first = client.get(f"/v1/sweeps/{sweep['id']}/trials?limit=1").json()
    rest = client.get(f"/v1/sweeps/{sweep['id']}/trials?after={first['next']}").json()
    assert [one["number"] for one in first["data"] + rest["data"]] == [0, 1, 2, 3, 4]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_a_sweep_that_nobody_changed_is_not_sent_again(client: TestClient) -> None:
    sweep = submitted(client, budget={"trials": 1})
    awaited(client, sweep["id"], begun)
    answer = client.get(f"/v1/sweeps/{sweep['id']}")
    headers = {"If-None-Match": answer.headers["etag"]}
    assert client.get(f"/v1/sweeps/{sweep['id']}", headers=headers).status_code == 304
    waited = client.get(f"/v1/sweeps/{sweep['id']}?wait=0.2").json()
    assert waited["version"] == answer.json()["version"]


def test_a_long_poll_answers_when_the_sweep_changes(client: TestClient) -> None:
    sweep = submitted(client, budget={"trials": 1})
    seen = awaited(client, sweep["id"], begun)
    started = time.monotonic()
    threading.Timer(0.5, client.post, [f"/v1/sweeps/{sweep['id']}/cancel"]).start()
    seen = client.get(f"/v1/sweeps/{sweep['id']}?wait=30&version={seen['version']}").json()
    assert seen["status"] in ("cancelling", "cancelled")
    assert time.monotonic() - started < 20


def test_a_cancelled_sweep_takes_its_trials_with_it_and_can_then_be_deleted(client: TestClient) -> None:
    sweep = submitted(client)
    awaited(client, sweep["id"], begun)
    assert client.delete(f"/v1/sweeps/{sweep['id']}").status_code == 409
    answer = client.post(f"/v1/sweeps/{sweep['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    seen = awaited(client, sweep["id"], ended)
    assert (seen["status"], seen["trials"]["cancelled"]) == ("cancelled", 1)
    assert client.post(f"/v1/sweeps/{sweep['id']}/cancel").status_code == 409
    trial = client.get(f"/v1/sweeps/{sweep['id']}/trials").json()["data"][0]
    assert client.get(trial["links"]["job"]).json()["status"] == "cancelled"
    assert client.delete(f"/v1/sweeps/{sweep['id']}").status_code == 204
    assert client.get(trial["links"]["job"]).status_code == 200


def test_a_sweep_that_is_not_there_is_not_found(client: TestClient) -> None:
    for method, path in (("GET", ""), ("GET", "/trials"), ("POST", "/cancel"), ("DELETE", "")):
        answer = client.request(method, f"/v1/sweeps/swp_none{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path)
