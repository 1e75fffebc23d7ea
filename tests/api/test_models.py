"""Models over HTTP: imported for real, listed, described and pointed at."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.db.tables import Project
from app.main import create_app
from app.ports.parts import Parts
from app.services import models
from app.settings import Settings
from tests.intake.checkpoints import LABELS, contents, pack, save_resnet, save_sklearn
from tests.services.test_models import checkpoint


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_sklearn(tmp_path_factory.mktemp("forest") / "model.onnx").read_bytes()


def register(application: FastAPI, name: str = "digits", content: str = "a", **changes: Any) -> None:
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        models.register(session, "prj_default", name, replace(checkpoint(content), **changes))


def refused(answer: Any, status: int, code: str, *pointers: str) -> str:
    """Checks that an answer is this problem, each fault with its way out, and returns its sentence."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert [fault["pointer"] for fault in problem["errors"]] == list(pointers)
    return str(problem["detail"])


# ---- import


def test_a_hugging_face_archive_becomes_a_version(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    folder = save_resnet(tmp_path / "saved")
    upload = pack(tmp_path / "model.zip", contents(folder), prefix="saved/").read_bytes()
    answer = client.post("/v1/models", data={"name": "insects", "alias": "champion"}, files={"file": upload})
    version = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == version["links"]["self"]
    assert version["object"] == "model_version"
    assert version["id"].startswith("mdl_")
    assert version["created_at"].endswith("Z")
    assert (version["name"], version["version"], version["reference"]) == ("insects", 1, "model:insects@1")
    assert (version["source"], version["format"], version["family"]) == ("import", "huggingface", "resnet")
    assert (version["labels"], version["classes"], version["aliases"]) == (LABELS, 3, ["champion"])
    assert version["input"] == {"modality": "image", "shape": [1, 8, 8]}
    assert version["warnings"] == []
    described = client.get("/v1/models/insects/versions/champion").json()
    assert described == {key: value for key, value in version.items() if key != "warnings"}
    listed = client.get(version["links"]["files"]).json()["data"]
    assert [file["path"] for file in listed] == sorted(path.name for path in folder.iterdir())
    for file in listed:
        assert (
            client.get(f"{version['links']['files']}/{file['path']}").content
            == (folder / file["path"]).read_bytes()
        )
    assert list(settings.work_dir.glob("upload-*")) == []


def test_the_same_file_again_is_the_same_version(client: TestClient, forest: bytes) -> None:
    sent = {"name": "forest", "task": "tabular_classification"}
    first = client.post("/v1/models", data=sent, files={"file": forest})
    again = client.post("/v1/models", data=sent, files={"file": forest})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    named = client.post(
        "/v1/models", data={**sent, "labels": json.dumps(["x", "y", "z"])}, files={"file": forest}
    )
    assert (named.status_code, named.json()["version"], named.json()["labels"]) == (201, 2, ["x", "y", "z"])


def test_a_wrong_form_is_pointed_at(client: TestClient, forest: bytes) -> None:
    def post(**fields: str) -> Any:
        return client.post("/v1/models", data=fields, files={"file": forest})

    refused(post(), 422, "invalid_request", "/name")
    refused(post(name="Big Forest"), 422, "invalid_request", "/name")
    refused(post(name="forest"), 422, "invalid_request", "/task")
    refused(post(name="forest", labels="ant,bee"), 422, "invalid_request", "/labels")
    refused(post(name="forest", labels='{"0": "ant"}'), 422, "invalid_request", "/labels")
    refused(post(name="forest", output_kind="votes"), 422, "invalid_request", "/output_kind")
    refused(post(name="forest", alias="7"), 422, "invalid_request", "/alias")
    refused(post(name="forest", source="hf:org/repo"), 422, "invalid_request", "/source")
    refused(client.post("/v1/models", data={"name": "forest"}), 415, "unsupported_media_type")
    assert client.get("/v1/models").json()["data"] == []


def test_a_hostile_archive_leaves_nothing_behind(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    upload = pack(tmp_path / "model.zip", files).read_bytes()
    answer = client.post("/v1/models", data={"name": "evil"}, files={"file": upload})
    detail = refused(answer, 422, "unsafe_format", "/file")
    assert "save_pretrained" in detail
    assert str(settings.work_dir) not in answer.text
    refused(client.get("/v1/models/evil"), 404, "not_found")
    assert list(settings.work_dir.glob("upload-*")) == []


# ---- reading


def test_models_are_listed_in_pages(client: TestClient, application: FastAPI) -> None:
    for name in ("a", "b", "c"):
        register(application, name)
        register(application, name, content="b")
    first = client.get("/v1/models?limit=2").json()
    rest = client.get("/v1/models", params={"limit": 2, "after": first["next"]}).json()
    assert [model["name"] for model in first["data"] + rest["data"]] == ["c", "b", "a"]
    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert first["data"][0]["latest"]["version"] == 2
    assert "labels" not in first["data"][0]["latest"]
    model = client.get("/v1/models/a?limit=1").json()
    older = client.get("/v1/models/a", params={"after": model["versions"]["next"]}).json()
    assert [page["versions"]["data"][0]["version"] for page in (model, older)] == [2, 1]
    for cursor in ("x", "AAAA", "bWRsXzE", "%00", "é"):
        refused(client.get("/v1/models/a", params={"after": cursor}), 422, "invalid_request", "/query/after")


def test_another_project_is_not_there(client: TestClient, application: FastAPI) -> None:
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        session.add(Project(id="prj_other", name="other"))
        session.flush()
        models.register(session, "prj_other", "secret", checkpoint())
    for path in (
        "",
        "/versions/1",
        "/versions/1/files",
        "/versions/1/files/config.json",
        "/versions/1/lineage",
    ):
        refused(client.get(f"/v1/models/secret{path}"), 404, "not_found")
    assert client.get("/v1/models").json()["data"] == []


def test_an_unknown_version_says_what_there_is(client: TestClient, application: FastAPI) -> None:
    register(application)
    assert "version 1 alone" in refused(client.get("/v1/models/digits/versions/2"), 404, "not_found")
    assert "There are digits." in refused(client.get("/v1/models/letters"), 404, "not_found")


def test_lineage_is_told(client: TestClient, application: FastAPI) -> None:
    register(application)
    teacher = client.get("/v1/models/digits/versions/1").json()
    told = {"job": "job_1", "teachers": [{"version_id": teacher["id"]}], "datasets": []}
    register(application, "tiny", source="job", lineage=told)
    answer = client.get("/v1/models/tiny/versions/1/lineage").json()
    assert answer["lineage"]["teachers"][0]["reference"] == "model:digits@1"
    assert answer["truncated"] is False


# ---- aliases


def test_an_alias_moves_under_its_etag(client: TestClient, application: FastAPI) -> None:
    register(application)
    register(application, content="b")
    url = "/v1/models/digits/aliases/champion"
    made = client.put(url, json={"version": 1}, headers={"If-None-Match": "*"})
    assert (made.status_code, made.json()["version"], made.headers["etag"]) == (200, 1, '"1"')
    refused(client.put(url, json={"version": 2}, headers={"If-None-Match": "*"}), 412, "version_conflict")
    refused(client.put(url, json={"version": 2}, headers={"If-Match": '"7"'}), 412, "version_conflict")
    refused(client.put(url, json={"version": 2}, headers={"If-Match": 'W/"1"'}), 412, "version_conflict")
    moved = client.put(url, json={"version": 2}, headers={"If-Match": '"7", "1"'})
    assert (moved.status_code, moved.json()["revision"], moved.headers["etag"]) == (200, 2, '"2"')
    assert client.get("/v1/models/digits/versions/champion").json()["version"] == 2
    refused(client.delete(url, headers={"If-Match": '"1"'}), 412, "version_conflict")
    assert client.delete(url, headers={"If-Match": "*"}).json()["version"] == 2
    refused(client.delete(url), 404, "not_found")
    refused(client.put(url, json={"version": 1}, headers={"If-Match": "*"}), 412, "version_conflict")


@pytest.mark.parametrize(
    ("alias", "body", "code", "pointer"),
    [
        ("champion", {"version": 9}, "unknown_reference", "/version"),
        ("champion", {"version": 0}, "invalid_request", "/version"),
        ("champion", {"version": "1"}, "invalid_request", "/version"),
        ("champion", {"version": 10**30}, "malformed_body", None),
        ("champion", {"version": 2**62}, "unknown_reference", "/version"),
        ("champion", {}, "invalid_request", "/version"),
        ("champion", {"version": 1, "revision": 1}, "invalid_request", "/revision"),
        ("7", {"version": 1}, "invalid_request", "/path/alias"),
        ("Champion", {"version": 1}, "invalid_request", "/path/alias"),
    ],
)
def test_a_wrong_alias_is_pointed_at(
    client: TestClient, application: FastAPI, alias: str, body: dict[str, Any], code: str, pointer: str | None
) -> None:
    register(application)
    answer = client.put(f"/v1/models/digits/aliases/{alias}", json=body)
    assert answer.status_code == (400 if code == "malformed_body" else 422)
    refused(answer, answer.status_code, code, *([pointer] if pointer else []))
