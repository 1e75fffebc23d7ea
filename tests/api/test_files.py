"""Downloads: ranges, entity tags and their combinations, through the route of a model's files."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.ports.parts import Parts
from app.services import models
from app.settings import Settings
from tests.services.test_models import checkpoint

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
ETAG = f'"{sha256(CONTENT).hexdigest()}"'
URL = "/v1/models/digits/versions/1/files/model.safetensors"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """With a model that has a large file, an empty one and one whose content is lost."""
    folder = tmp_path_factory.mktemp("files")
    settings = Settings(
        database_url=f"sqlite:///{folder / 'stillhouse.db'}",
        blobs_url=f"file://{folder / 'blobs'}",
        work_dir=folder / "work",
    )
    application = create_app(settings)
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        parts: Parts = application.state.parts
        stored = {"model.safetensors": CONTENT, "README.md": b"", "config.json": b"{}"}
        files = [{"path": name, **vars(parts.blobs.put([content]))} for name, content in stored.items()]
        files.append({"path": "lost.json", "sha256": "0" * 64, "size": 3})
        with parts.sessions.write() as session:
            models.register(session, "prj_default", "digits", replace(checkpoint(), files=files), "champion")
        yield client


def test_a_whole_file_comes_as_an_attachment(client: TestClient) -> None:
    answer = client.get(URL)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == ETAG
    assert answer.headers["content-length"] == "10240"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(URL.replace("/1/", "/champion/")).content == CONTENT
    assert client.get(URL.replace("model.safetensors", "config.json")).json() == {}


def test_head_tells_of_a_file_without_sending_it(client: TestClient) -> None:
    whole, part = client.head(URL), client.head(URL, headers={"Range": "bytes=0-9"})
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"", "10240")
    assert whole.headers["etag"] == ETAG
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 0-9/10240")
    assert client.head(URL, headers={"If-None-Match": ETAG}).status_code == 304
    assert client.head(URL + "x").status_code == 404


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1), ("bytes=0-", 0, 10_240), ("bytes=10-19", 10, 20), ("bytes= 5-6 ", 5, 7),
        ("bytes=10000-99999999999", 10_000, 10_240), ("bytes=-1", 10_239, 10_240),
        ("bytes=-500", 9_740, 10_240), ("bytes=-99999", 0, 10_240), ("bytes=10239-", 10_239, 10_240),
    ],
)  # fmt: skip
def test_a_range_is_answered_with_that_part(client: TestClient, wanted: str, start: int, end: int) -> None:
    answer = client.get(URL, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize(
    "wanted", ["bytes=10240-", "bytes=10240-10250", "bytes=-0", "bytes=" + "9" * 18 + "-"]
)
def test_a_range_outside_the_file_tells_its_size(client: TestClient, wanted: str) -> None:
    answer = client.get(URL, headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10240"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-4",
        "bytes=a-b",
        "bytes=-",
        "bytes",
        "lines=0-1",
        "bytes=0-1,4-5",
        "bytes=" + "9" * 5000 + "-",
        "",
    ],
)
def test_a_range_that_is_not_understood_is_ignored(client: TestClient, wanted: str) -> None:
    answer = client.get(URL, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_every_range_of_an_empty_file_lies_outside(client: TestClient) -> None:
    url = URL.replace("model.safetensors", "README.md")
    assert client.get(url).content == b""
    assert [client.get(url, headers={"Range": r}).status_code for r in ("bytes=0-", "bytes=-5")] == [416, 416]


@pytest.mark.parametrize("tags", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
def test_what_the_client_has_is_not_sent_again(client: TestClient, tags: str) -> None:
    answer = client.get(URL, headers={"If-None-Match": tags, "Range": "bytes=0-1"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", ETAG)
    assert client.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("tag", "status"),
    [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
def test_a_resumed_download_starts_over_when_the_file_is_another(
    client: TestClient, tag: str, status: int
) -> None:
    answer = client.get(URL, headers={"If-Range": tag, "Range": "bytes=1-2"})
    assert (answer.status_code, answer.content) == (status, CONTENT[1:3] if status == 206 else CONTENT)


def test_a_download_resumed_in_pieces_is_the_whole(client: TestClient) -> None:
    pieces = b""
    while len(pieces) < len(CONTENT):
        wanted = f"bytes={len(pieces)}-{len(pieces) + 3000}"
        pieces += client.get(URL, headers={"Range": wanted, "If-Range": ETAG}).content
    assert pieces == CONTENT


@pytest.mark.parametrize(
    "path", ["none.bin", "..%2F..%2F1%2Ffiles%2Fconfig.json", "/etc/passwd", "", "lost.json", "%00"]
)
def test_what_is_not_there_answers_404(client: TestClient, path: str) -> None:
    answer = client.get(URL.replace("model.safetensors", path))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
