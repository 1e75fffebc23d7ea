"""Forms are received as streams: to disk, within limits, and nothing stays behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from httpx import ASGITransport

from app.api import uploads
from app.api.uploads import Form, Received, parse_texts, receive
from app.errors import Invalid, StillhouseError
from app.services.datasets import Order
from app.settings import Settings

FORM = Form(
    files={"file": "one or several", "other": "one"},
    texts={"name": "a name", "note": "a note"},
    required=("name",),
    repeatable=frozenset({"file"}),
    max_files=3,
)
Send = Callable[..., httpx.Response]
TYPE = "multipart/form-data; boundary=XX"


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    """What it received, as JSON; an error of ours by its status and code."""
    application = FastAPI()

    @application.post("/")
    async def show(request: Request) -> dict[str, Any]:
        try:
            async with receive(request, FORM, settings, 20_000_000) as form:
                files = [
                    [file.field, file.name, file.size, file.path.read_bytes()[:20].decode()]
                    for file in form.files
                ]
                assert all(file.path.parent == form.folder for file in form.files)
                (form.folder / "more").mkdir()
                return {"texts": form.texts, "files": files}
        except StillhouseError as error:
            return {
                "status": error.status,
                "code": error.code,
                "pointers": [one.pointer for one in error.faults],
            }

    return application


@pytest.fixture
def send(application: FastAPI, settings: Settings) -> Iterator[Send]:
    def send(content: bytes | None = None, type_: str = TYPE, **parts: Any) -> Any:
        async def post() -> Any:
            transport = ASGITransport(app=application)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                headers = {"content-type": type_} if content is not None else {}
                return (await client.post("/", content=content, headers=headers, **parts)).json()

        return asyncio.run(post())

    yield send
    assert list(settings.work_dir.glob("*")) == []


def test_texts_and_files_arrive_under_their_names(send: Send) -> None:
    files = [("file", ("a.csv", b"one")), ("other", ("é.csv", b"two")), ("file", ("../up", b""))]
    answer: Any = send(data={"name": "Ünicode", "note": ""}, files=files)
    assert answer["texts"] == {"name": "Ünicode", "note": ""}
    assert answer["files"] == [
        ["file", "a.csv", 3, "one"],
        ["other", "é.csv", 3, "two"],
        ["file", "../up", 0, ""],
    ]


def test_a_file_is_the_same_wherever_the_chunks_are_cut(application: FastAPI, settings: Settings) -> None:
    content = b"\r\n--X" * 40_000
    text = b'--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\nn\r\n'
    body = text + b'--XX\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    whole = body + content + b"\r\n--XX--\r\n"
    sizes: list[int] = []

    @application.post("/sizes")
    async def sizes_of(request: Request) -> None:
        async with receive(request, FORM, settings) as form:
            assert form.files[0].path.read_bytes() == content
            sizes.append(form.files[0].size)

    async def post(step: int) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(whole), step):
                yield whole[start : start + step]

        async with httpx.AsyncClient(transport=ASGITransport(app=application), base_url="http://x") as client:
            await client.post("/sizes", content=chunks(), headers={"content-type": TYPE})

    for step in (7919, 65_536, 10_000_000):
        asyncio.run(post(step))
    assert sizes == [len(content)] * 3


@pytest.mark.parametrize(
    ("parts", "code", "pointers"),
    [
        ({"data": {"note": "x"}}, "invalid_request", ["/name"]),
        ({"data": {"name": "x", "nmae": "y"}}, "invalid_request", ["/nmae"]),
        ({"data": {"name": "x"}, "files": {"fil": b"y"}}, "invalid_request", ["/fil"]),
        ({"data": {"name": "x"}, "files": {"note": b"y"}}, "invalid_request", ["/note"]),
        ({"data": {"name": "x"}, "files": {"name": b"y"}}, "invalid_request", ["/name"]),
        ({"files": {"note": (None, b"y"), "file": (None, b"y")}}, "invalid_request", ["/file"]),
        ({"data": {"name": ["x", "y"]}, "files": {"file": b""}}, "invalid_request", ["/name"]),
        ({"files": [("other", b"1"), ("other", b"2")]}, "invalid_request", ["/other"]),
        ({"files": [("file", b"1")] * 4}, "invalid_request", []),
        ({"files": {"name": (None, "x" * 300_000)}}, "invalid_request", ["/name"]),
        ({"files": {"name": (None, b"\xff")}}, "malformed_body", []),
        ({"files": {"name": (None, b"a\0b")}}, "malformed_body", []),
        ({"json": {"name": "x"}}, "unsupported_media_type", []),
    ],
)
def test_what_does_not_belong_is_refused_by_name(
    send: Send, parts: Any, code: str, pointers: list[str]
) -> None:
    answer: Any = send(**{"files": {"file": b""}, **parts} if "json" not in parts else parts)
    assert (answer["code"], answer["pointers"]) == (code, pointers)


@pytest.mark.parametrize(
    ("content", "type_"),
    [
        (b"", TYPE),
        (b"--XX\r\n", TYPE),
        (b'--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\nx', TYPE),
        (b'--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--XX\r\n', TYPE),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n", TYPE),
        (b"no form at all", TYPE),
        (b"--XX\r\n" + b"A: b\r\n" * 1000, TYPE),
        (b"--XX\r\nA: " + b"b" * 100_000, TYPE),
        (b"--XX--\r\n", "multipart/form-data"),
        (b"--XX--\r\n", "multipart/form-data; boundary=" + "X" * 71),
    ],
)
def test_a_form_that_is_malformed_or_cut_is_refused(send: Send, content: bytes, type_: str) -> None:
    assert send(content, type_)["code"] == "malformed_body"  # type: ignore[index]


def test_a_body_that_is_too_long_is_refused_at_once(application: FastAPI, settings: Settings) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(100):
            sent += 1
            yield bytes(1_000_000)

    async def post(content: Any, **headers: str) -> Any:
        async with httpx.AsyncClient(transport=ASGITransport(app=application), base_url="http://x") as client:
            return (await client.post("/", content=content, headers={"content-type": TYPE, **headers})).json()

    assert asyncio.run(post(endless()))["code"] == "payload_too_large"
    assert sent <= 21
    sent = 0
    assert asyncio.run(post(endless(), **{"content-length": "20000001"}))["code"] == "payload_too_large"
    assert sent == 0
    assert list(settings.work_dir.glob("*")) == []


def test_a_client_that_leaves_leaves_nothing_behind(application: FastAPI, settings: Settings) -> None:
    """The connection ends in the middle of a file."""
    first = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(2_000_000)
    messages = iter([{"type": "http.request", "body": first, "more_body": True}, {"type": "http.disconnect"}])
    headers = [(b"content-type", TYPE.encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": headers,
        "query_string": b"",
        "http_version": "1.1",
    }
    answers: list[Any] = []

    async def hear() -> Any:
        return next(messages)

    async def say(message: Any) -> None:
        answers.append(message)

    asyncio.run(application(scope, hear, say))
    assert b"malformed_body" in answers[1]["body"]
    assert list(settings.work_dir.glob("*")) == []


def test_a_full_disk_is_not_the_clients_fault(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")

    class FullPath(type(full)):  # type: ignore[misc]
        def open(self, *args: Any, **kwargs: Any) -> Any:
            return full.open("wb")

    real = uploads._scratch
    monkeypatch.setattr(uploads, "_scratch", lambda work_dir: FullPath(real(work_dir)))
    form = {"name": "x"}
    answer = client.post("/v1/datasets", data=form, files={"file": ("x.csv", bytes(3_000_000))})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.json()["detail"] == "There is no room for this now; try again later."
    assert "retry-after" in answer.headers


def test_the_form_stands_in_the_openapi() -> None:
    schema = FORM.openapi()["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["name"]
    assert schema["properties"]["file"]["type"] == "array"
    assert schema["properties"]["other"]["contentMediaType"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("texts", "pointer", "fix"),
    [
        ({"name": "../x"}, "/name", "Write 1 to 100 of a-z, 0-9"),
        ({"name": "x", "splits": '{"trian": 1}'}, "/splits/trian", "Use 'train', 'validation'"),
        ({"name": "x", "splits": '{"train": 0.5}'}, "/splits", "all shares together 1"),
        ({"name": "x", "seed": "one"}, "/seed", "Send a valid integer."),
    ],
)
def test_texts_that_do_not_fit_their_form_are_told_as_a_body_is(
    tmp_path: Path, texts: dict[str, str], pointer: str, fix: str
) -> None:
    with pytest.raises(Invalid) as caught:
        parse_texts(Order, Received(tmp_path, texts), "splits")
    (fault,) = caught.value.faults
    assert fault.pointer == pointer
    assert fix in fault.fix
    assert caught.value.detail == f"{pointer}: {fault.detail}"
