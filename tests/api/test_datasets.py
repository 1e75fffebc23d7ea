"""Datasets over HTTP, from the upload to the page of rows."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.intake.samples import (
    as_csv,
    as_folders,
    as_hugging_face,
    as_json_lines,
    digit_folders,
    digits,
    irises,
)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    application = create_app(settings)
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
    assert not list(settings.work_dir.glob("upload-*"))


def upload(client: TestClient, content: bytes, field: str = "file", **texts: str) -> Any:
    return client.post("/v1/datasets", data={"name": "iris", **texts}, files={field: ("data", content)})


def test_an_upload_becomes_a_version_once(client: TestClient) -> None:
    content = as_csv(irises()) + b"1,2\n"
    created = upload(client, content, label="species", splits='{"train": 0.8, "test": 0.2}')
    assert created.status_code == 201
    body = created.json()
    assert created.headers["location"] == "/v1/datasets/iris/versions/1"
    assert body["id"].startswith("ds_")
    assert (body["object"], body["reference"], body["label"]) == ("dataset", "dataset:iris@1", "species")
    assert body["created_at"].endswith("Z")
    assert [split["split"] for split in body["splits"]] == ["train", "test"]
    assert body["rows"] == sum(split["rows"] for split in body["splits"]) == 150
    bad = body["profile"]["splits"]["train"]["bad_rows"]
    assert bad["count"] == 1
    assert bad["examples"][0]["row"] == 151
    again = upload(client, as_json_lines(irises()), label="species", splits='{"train": 0.8, "test": 0.2}')
    assert again.status_code == 200
    assert again.json() == body
    assert client.get(created.headers["location"]).json() == body


def test_versions_are_listed_in_pages_and_deleted(client: TestClient) -> None:
    for name, seed in (("b", "0"), ("a", "0"), ("a", "1")):
        splits = '{"train": 0.5, "test": 0.5}'
        assert (
            upload(client, as_csv(irises()), name=name, splits=splits, seed=seed, label="species").status_code
            == 201
        )
    first = client.get("/v1/datasets?limit=1").json()
    assert [(one["name"], one["version"]) for one in first["data"]] == [("a", 2)]
    assert "profile" not in first["data"][0]
    rest = client.get("/v1/datasets", params={"limit": 1, "after": first["next"]}).json()
    assert [(one["name"], one["version"]) for one in rest["data"]] == [("b", 1)]
    assert (rest["has_more"], rest["next"]) == (False, None)
    newest = client.get("/v1/datasets/a?limit=1").json()
    older = client.get("/v1/datasets/a", params={"after": newest["next"]}).json()
    assert [one["version"] for one in newest["data"] + older["data"]] == [2, 1]
    assert client.delete("/v1/datasets/a/versions/1").status_code == 204
    for gone in (client.get("/v1/datasets/a/versions/1"), client.delete("/v1/datasets/a/versions/1")):
        assert gone.status_code == 404
        assert "versions 2" in gone.json()["detail"]
    assert client.get("/v1/datasets/zebra").status_code == 404


def test_rows_come_in_pages_with_their_images(client: TestClient) -> None:
    pairs = digits(30)
    upload(client, as_hugging_face(pairs), name="digits", splits='{"unlabeled": 1}')
    path = "/v1/datasets/digits/versions/1/rows"
    first = client.get(path, params={"limit": 25}).json()
    second = client.get(path, params={"limit": 25, "after": first["next"], "split": "unlabeled"}).json()
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)
    rows = first["data"] + second["data"]
    assert [row["row"] for row in rows] == list(range(1, 31))
    images = [base64.b64decode(row["values"]["image"]["base64"]) for row in rows]
    assert images == [image for image, _ in pairs]
    assert rows[0]["values"]["label"] == "zero"
    missing = client.get(path, params={"split": "test"})
    assert missing.status_code == 404
    assert "unlabeled" in missing.json()["detail"]
    assert client.get(path, params={"after": "x"}).status_code == 422


def test_named_splits_and_folders_are_taken(client: TestClient) -> None:
    rows = irises()
    files = [("train", as_csv(rows[:100])), ("train", as_csv(rows[100:])), ("test", as_csv(rows[:30]))]
    named = client.post("/v1/datasets", data={"name": "iris"}, files=files).json()
    assert {split["split"]: split["rows"] for split in named["splits"]} == {"train": 150, "test": 30}
    assert named["profile"]["leaks"] == [{"splits": ["train", "test"], "rows": 30}]
    folders = upload(client, as_folders(digit_folders(digits(20))), name="digits").json()
    assert folders["profile"]["splits"]["train"]["columns"]["image"]["type"] == "image"


@pytest.mark.parametrize(
    ("texts", "content", "code", "pointer"),
    [
        ({"name": "No Name"}, b"a\n1\n", "invalid_request", "/name"),
        ({"splits": "{"}, b"a\n1\n", "invalid_request", "/splits"),
        ({"splits": '{"train": NaN}'}, b"a\n1\n", "invalid_request", "/splits"),
        ({"splits": '{"train": 0.5}'}, b"a\n1\n", "invalid_request", "/splits"),
        ({"splits": '{"dev": 1}'}, b"a\n1\n", "invalid_request", "/splits/dev"),
        ({"splits": '{"a/b": 1}'}, b"a\n1\n", "invalid_request", "/splits/a~1b"),
        ({"seed": "x"}, b"a\n1\n", "invalid_request", "/seed"),
        ({"color": "x"}, b"a\n1\n", "invalid_request", "/color"),
        ({"label": "genus"}, as_csv(irises()), "invalid_data", "/label"),
        ({}, b"", "invalid_data", "/file"),
        ({}, b"a,b\n1\n", "invalid_data", "/file"),
        ({}, b"PAR1" + bytes(100), "invalid_data", "/file"),
    ],
)
def test_a_wrong_upload_is_refused_with_the_pointer(
    client: TestClient, texts: dict[str, str], content: bytes, code: str, pointer: str
) -> None:
    answer = upload(client, content, **texts)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), problem
    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    assert client.get("/v1/datasets").json()["data"] == []


def test_an_archive_that_would_do_harm_is_refused(client: TestClient) -> None:
    answer = upload(client, as_folders({"../../evil.png": b"x"}))
    assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_format")


def test_an_upload_that_is_too_large_is_refused(settings: Settings) -> None:
    application = create_app(settings.model_copy(update={"max_upload_bytes": 1000}))
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        assert upload(client, bytes(2000)).status_code == 413


def test_the_openapi_shows_the_form_and_examples(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {
        "name", "label", "splits", "seed", "file", "train", "validation", "test", "unlabeled",
    }  # fmt: skip
    assert json.dumps(document["components"]["schemas"]["DatasetView"]).count("dataset:digits@2") == 1
