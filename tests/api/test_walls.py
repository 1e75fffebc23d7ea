"""Walls between projects: every route of the application, asked for what belongs to somebody else.

A route that comes to be joins by itself. Where it has a parameter or a body that nobody thought of here, a
test fails until somebody has.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.lock import LockedRoute
from app.catalog.spec import JobSpec
from app.catalog.sweep import SweepSpec
from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import AttemptLog, Delivery, Import, ModelLayers
from app.main import create_app
from app.ports.parts import Parts
from app.services import attempts, claims, models, submission, sweeps, webhooks
from app.services.access import SCOPES
from app.settings import Settings
from tests import keyed, orders
from tests.serving.students import checkpoint, linear_onnx, weights

Json = dict[str, Any]
PUBLIC = {"/openapi.json", "/docs", "/docs/{name}", "/healthz", "/readyz"}
SPACE = {"/losses/temperature": {"kind": "float", "low": 1, "high": 8, "log": True}}
OF_A_REQUEST = ("instance", "request_id")
BODIES: dict[str, Json] = {  # of routes with a path parameter and a body that must be given
    "PUT /v1/models/{name}/aliases/{alias}": {"version": 1},
    "PATCH /v1/webhooks/{webhook_id}": {"enabled": False},
    "POST /v1/jobs/{job_id}/clone": {"overrides": {"name": "copy"}},
    "POST /v1/models/{reference}/predict": {"inputs": [[1, 2]]},
    "PATCH /v1/projects/{project_id}": {},
    "POST /v1/projects/{project_id}/keys": {"name": "mine", "scopes": ["admin"]},
}


@dataclass(frozen=True)
class World:
    application: FastAPI
    mine: TestClient
    theirs: TestClient
    things: Json  # of the other project, by the name of a path parameter

    def routes(self) -> list[LockedRoute]:
        return [route for route in self.application.router.routes if isinstance(route, LockedRoute)]


@pytest.fixture
def world(settings: Settings, database_url: str) -> Iterator[World]:
    with keyed.application(settings, database_url) as application:
        project_id, theirs = keyed.make_project(application, "theirs")
        _, mine = keyed.make_project(application, "mine")
        yield World(application, mine, theirs, furnish(application, theirs, project_id))


def furnish(application: FastAPI, theirs: TestClient, project_id: str) -> Json:
    """One of everything, and by which value of a path parameter it is found."""
    parts: Parts = application.state.parts
    files = [{"name": name, **vars(parts.blobs.put([b"{}"])), "media_type": "application/json"}
             for name in ("report.json", "rows.json", "report.md", "trace.json")]  # fmt: skip
    waits = {"resources": {"accelerator": "cuda"}}
    with parts.sessions.write() as session:
        orders.stock(session, project_id)
        models.register(
            session, project_id, "served", checkpoint(parts.blobs, linear_onnx(weights(1, 64, 10), (1, 8, 8)))
        )
        seen = models.get(session, project_id, "botanist", "1").version
        models.point(session, seen.model_id, "champion", 1)
        session.add(ModelLayers(version_id=seen.id, layers=[], attempts=1))
        spec = JobSpec.model_validate(orders.spec())
        job = submission.submit(session, parts.settings, project_id, spec)
        waiting = submission.submit(session, parts.settings, project_id, spec.model_copy(update={}))
        claimed = claims.claim(session, "me", ["cpu"], 60.0)
        assert claimed is not None
        assert {claimed.id, job.id, waiting.id} == {job.id, waiting.id}
        attempts.succeed(session, claimed.id, 1, checkpoint=orders.student(claimed), manifest="m",
                         artifacts=files, outcome={}, usage={})  # fmt: skip
        session.add(AttemptLog(job_id=claimed.id, attempt=1, sha256=files[0]["sha256"], size=2))
        hook, _ = webhooks.create(session, project_id, url="https://hooks.example/", description="", types=[])
        hook.enabled = False
        delivery = Delivery(id=new_id("evt"), webhook_id=hook.id, type="webhook.test", payload={},
                            status="failed", ended_at=db_now())  # fmt: skip
        fetched = Import(id=new_id("imp"), project_id=project_id, kind="model", name="fetched", digest="0",
                         source="hf:someone/something", texts={}, status="cancelled", deadline_at=db_now(),
                         ended_at=db_now())  # fmt: skip
        session.add_all([delivery, fetched])
        session.flush()
        ids = {
            "job_id": claimed.id,
            "webhook_id": hook.id,
            "delivery_id": delivery.id,
            "import_id": fetched.id,
        }
    order = SweepSpec.model_validate(
        {"spec": orders.spec(losses={"preset": "hinton"}, **waits), "space": SPACE}
    )
    key = theirs.get("/v1/keys").json()["data"][0]["id"]
    return {
        **ids,
        "sweep_id": sweeps.submit(parts, project_id, order),
        "key_id": key,
        "project_id": project_id,
        "version": "1",
        "alias": "champion",
        "reference": "served",
        "/v1/datasets name": "iris",
        "/v1/models name": "botanist",
        "/v1/models path": "model.onnx",
        "/v1/jobs name": "report.json",
    }


def thing(route: LockedRoute, parameter: str, things: Json) -> str:
    """The value that finds the other project's. KeyError: cover the new parameter above."""
    family = "/".join(route.path.split("/")[:3])
    return str(things.get(f"{family} {parameter}") or things[parameter])


def never(value: str) -> str:
    """One of the same form that nobody has."""
    return re.sub(r"[a-z]$", lambda last: "z" if last[0] != "z" else "y", value[:-1] + "x") + "q" * (
        "_" not in value
    )


def asked(client: TestClient, route: LockedRoute, values: dict[str, str]) -> tuple[int, str]:
    """The status, and the body with the values and what belongs to one request taken out."""
    (method,) = route.methods or ("",)
    path = re.sub(r":\w+}", "}", route.path).format(**values)
    name = f"{method} {route.path}"
    sent: Json = {}
    if name in BODIES or (route.body_field is not None and method != "GET"):
        sent["json"] = BODIES.get(name, {})
    answer = client.request(method, path, **sent)
    return answer.status_code, plain(answer.text, values.values())


def plain(text: str, values: Any) -> str:
    for value in sorted(values, key=len, reverse=True):
        if len(value) > 1:
            text = text.replace(value, "THING")
    try:
        body = json.loads(text)
    except ValueError:
        return text
    return json.dumps({name: value for name, value in body.items() if name not in OF_A_REQUEST})


def parameters(route: LockedRoute) -> list[str]:
    return re.findall(r"{(\w+)(?::\w+)?}", route.path)


def test_another_projects_things_answer_as_if_they_had_never_been(world: World) -> None:
    covered = 0
    for route in world.routes():
        if not parameters(route):
            continue
        found = {name: thing(route, name, world.things) for name in parameters(route)}
        absent = {name: value if len(value) == 1 else never(value) for name, value in found.items()}
        there, nowhere = asked(world.mine, route, found), asked(world.mine, route, absent)
        assert there == nowhere, route
        assert there[0] == (403 if route.of_installation else 404), (route, there)
        covered += 1
        if route.methods == {"GET"} and not route.of_installation:  # it is there: its owner finds it
            assert asked(world.theirs, route, found) != there, route
    assert covered > 30
    assert world.theirs.get(f"/v1/jobs/{world.things['job_id']}").json()["status"] == "succeeded"


def test_no_list_and_no_reference_finds_what_another_project_has(world: World) -> None:
    check_lists(world)
    for path in ("/v1/jobs", "/v1/jobs/plan", "/v1/sweeps", "/v1/sweeps/plan"):
        check_references(world, path)
    check_predictions(world)


def check_lists(world: World) -> None:
    ids = [value for value in world.things.values() if "_" in value]
    for route in world.routes():
        if route.methods == {"GET"} and not parameters(route) and route.path != "/v1/capabilities":
            text = world.mine.get(route.path).text
            assert not [one for one in (*ids, "botanist", "iris") if one in text], route


def check_references(world: World, path: str) -> None:
    def answer(teacher: str, data: str) -> tuple[int, str]:
        spec = orders.spec(
            teachers=[{"model": teacher}],
            data={"train": f"{data}#train", "test": f"{data}#test"},
            student={"architecture": {"kind": "mlp", "hidden_sizes": [4]},
                     "initialize": {"kind": "checkpoint", "model": teacher}},
        )  # fmt: skip
        body = spec if "jobs" in path else {"spec": {**spec, "losses": {"preset": "hinton"}}, "space": SPACE}
        got = world.mine.post(path, json=body)
        names = [re.split("[:@]", reference)[1] for reference in (teacher, data)]
        return got.status_code, plain(got.text, [teacher, data, *names])

    for theirs, nobody in [
        (("model:botanist@1", "dataset:iris@1"), ("model:ghost@1", "dataset:phantom@1")),
        (("model:botanist@champion", "dataset:iris"), ("model:ghost@champion", "dataset:phantom")),
    ]:
        there, nowhere = answer(*theirs), answer(*nobody)
        assert there == nowhere
        assert there[0] == (200 if path.endswith("plan") else 422)
        assert "unknown_reference" in there[1]
        assert '"ok": true' not in there[1]


def check_predictions(world: World) -> None:
    picture = {"inputs": ["aGVsbG8="]}
    got = [world.mine.post("/predict", json={"model": name, **picture}) for name in ("served", "nobody")]
    assert got[0].status_code == got[1].status_code == 404
    assert plain(got[0].text, ["served"]) == plain(got[1].text, ["nobody"])
    assert world.theirs.post("/predict", json={"model": "served", **picture}).status_code == 422  # no picture


def test_every_route_asks_for_a_key_and_for_its_scope(settings: Settings) -> None:
    """What a key may not do is refused before anything is looked at; a path need not lead anywhere."""
    with keyed.application(settings, settings.database_url) as application:
        nobody, owner = keyed.client(application, None), keyed.client(application)
        holders = {scope: keyed.with_scopes(owner, application, [scope]) for scope in SCOPES}
        routes = [route for route in application.router.routes if isinstance(route, LockedRoute)]
        for route in routes:
            (method,) = route.methods or ("",)
            path = re.sub(r"{\w+(:\w+)?}", "1", route.path)
            refused = nobody.request(method, path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), route
            for scope, holder in holders.items():
                if scope != route.scope:
                    answer = holder.request(method, path)
                    assert answer.status_code == 403, (route, scope)
                    assert f"scope '{route.scope}'" in answer.json()["detail"]
    assert {route.scope for route in routes} == set(SCOPES)


def test_what_needs_no_key_is_what_is_named_here(settings: Settings) -> None:
    routes = create_app(settings).router.routes
    assert {getattr(one, "path", "") for one in routes if not isinstance(one, LockedRoute)} == PUBLIC
