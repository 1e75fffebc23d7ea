"""The real application with keys on, and clients that hold one."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app
from app.settings import Settings

OPERATOR = "sh_first_" + "k" * 43


@contextmanager
def application(settings: Settings, database_url: str, **changes: Any) -> Iterator[FastAPI]:
    """Nothing wakes by itself in it for an hour; without `changes` no rate is limited."""
    quiet = {"poll_s": 3600.0, "rate_limit_requests": "", "rate_limit_predictions": ""}
    fixed = {"database_url": database_url, "bootstrap_key": SecretStr(OPERATOR)}
    started = create_app(settings.model_copy(update={**quiet, **fixed, **changes}))
    before = set(threading.enumerate())
    with TestClient(started):
        yield started
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # it may hold a connection to the database of a test that is over


def client(application: FastAPI, key: str | None = OPERATOR) -> TestClient:
    """One that sends this key. The application runs already."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return TestClient(
        application, base_url="http://stillhouse.example", headers=headers, raise_server_exceptions=False
    )


def make_project(application: FastAPI, name: str, **quotas: Any) -> tuple[str, TestClient]:
    """Its id, and a client that may do everything in it."""
    made = client(application).post("/v1/projects", json={"name": name, **quotas})
    assert made.status_code == 201, made.text
    return made.json()["id"], client(application, made.json()["key"]["key"])


def with_scopes(owner: TestClient, application: FastAPI, scopes: Sequence[str], **ends: Any) -> TestClient:
    """A client with a new key of the owner's project."""
    made = owner.post("/v1/keys", json={"name": "made", "scopes": list(scopes), **ends})
    assert made.status_code == 201, made.text
    return client(application, made.json()["key"])
