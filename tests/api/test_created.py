"""Whoever makes something is told where it is to be found, and the audit log says so, too."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.settings import Settings
from tests import keyed, orders

KEY = {"name": "ci", "scopes": ["read"]}
SOURCE = {"name": "n", "source": "hf:org/repository"}
ON_A_GPU = {"resources": {"accelerator": "cuda"}}  # which no worker here offers
SPACE = {"/losses/temperature": {"kind": "float", "low": 1, "high": 8}}
MADE = {
    "/v1/datasets": ("/v1/imports/", SOURCE),
    "/v1/jobs": ("/v1/jobs/", orders.spec(**ON_A_GPU)),
    "/v1/keys": ("/v1/keys/", KEY),
    "/v1/models": ("/v1/imports/", SOURCE),
    "/v1/projects": ("/v1/projects/", {"name": "vision"}),
    "/v1/projects/{project_id}/keys": ("/v1/keys/", KEY),
    "/v1/sweeps": (
        "/v1/sweeps/",
        {"spec": orders.spec(losses={"preset": "hinton"}, **ON_A_GPU), "space": SPACE},
    ),
    "/v1/webhooks": ("/v1/webhooks/", {"url": "https://hooks.example/"}),
}


@pytest.fixture
def application(settings: Settings) -> Iterator[FastAPI]:
    with keyed.application(settings, settings.database_url) as application:
        with application.state.parts.sessions.write() as session:
            orders.stock(session)
        yield application


def test_the_place_of_what_is_made_is_told_and_written_down(application: FastAPI) -> None:
    operator = keyed.client(application)
    for path, (place, body) in MADE.items():
        answer = operator.post(path.format(project_id=orders.PROJECT), json=body)
        assert answer.status_code in (201, 202), answer.text
        made = answer.json()["id"]
        assert answer.headers["location"] == f"{place}{made}"
        assert operator.get(answer.headers["location"]).json()["id"] == made
        newest = operator.get("/v1/audit").json()["data"][0]
        assert (newest["route"], newest["path"]) == (path, f"{place}{made}")
    routes = [
        route for route in application.routes if isinstance(route, APIRoute) and route.methods == {"POST"}
    ]
    making = {route.path for route in routes if route.path.endswith("s") or route.status_code == 201}
    assert making == set(MADE)  # the rest are verbs; retry and clone are tried with those
