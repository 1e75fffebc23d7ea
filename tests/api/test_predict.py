"""Predictions over HTTP."""

import base64
import json
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.api import predict as api
from app.db.session import Sessions
from app.db.tables import Model
from app.main import create_app
from app.ports.parts import Parts
from app.services import models
from app.services.predictions import MAX_ROWS
from app.settings import Settings
from tests.serving.students import (
    PROJECT,
    add_digits,
    add_plants,
    add_reviews,
    checkpoint,
    digit,
    expected_logits,
)

ROW = {"height": 14, "color": "yellow"}


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"poll_s": 3600.0}))  # no lookout among the sessions


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    """With two versions of a student of digits, the first of them the champion, and a student of plants."""
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        parts: Parts = application.state.parts
        with parts.sessions.write() as session:
            add_digits(session, parts.blobs, seed=1, alias="champion")
            add_digits(session, parts.blobs, seed=2)
            add_plants(session, parts.blobs)
            add_reviews(session, parts.blobs)
        yield client


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def refused(response: Any, status: int, code: str, *pointers: str) -> str:
    """Checks that an answer is this problem and returns its sentence."""
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert [fault["pointer"] for fault in problem["errors"]] == list(pointers)
    return str(problem["detail"])


# ---- what is answered


def test_a_row_is_answered_by_name(client: TestClient) -> None:
    answer = client.post("/predict", json={"model": "plants", "inputs": [ROW, [6, "red"]], "top_k": 1})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"model", "predictions", "usage"}
    assert body["model"] == "plants@1"
    assert [one["label"] for one in body["predictions"]] == ["tulip", "rose"]
    assert [len(one["top"]) for one in body["predictions"]] == [1, 1]
    assert body["usage"]["rows"] == 2
    assert body["usage"]["latency_ms"] > 0


def test_an_image_is_answered_the_same_however_it_is_sent(client: TestClient) -> None:
    image, model = digit(3), "digits@champion"
    sent = [
        client.post("/predict", json={"model": model, "inputs": [text_of(image)]}),
        client.post(
            f"/v1/models/{model}/predict", json={"inputs": [f"data:image/png;base64,{text_of(image)}"]}
        ),
        client.post(f"/predict?model={model}", content=image, headers={"content-type": "image/png"}),
        client.post(
            f"/v1/models/{model}/predict?top_k=3", content=image, headers={"content-type": "image/x-any"}
        ),
        client.post("/predict", data={"model": model, "top_k": "3"}, files=[("file", image)]),
        client.post(f"/v1/models/{model}/predict", files=[("file", ("a.png", image, "image/png"))]),
    ]
    assert [answer.status_code for answer in sent] == [200] * len(sent)
    first = sent[0].json()["predictions"]
    assert first[0]["label"] == str(expected_logits(image, seed=1).argmax())
    assert len(first[0]["top"]) == 3
    assert all(answer.json()["predictions"] == first for answer in sent)
    assert {answer.json()["model"] for answer in sent} == {"digits@1"}


def test_a_text_is_answered_as_it_is_or_by_its_column(client: TestClient) -> None:
    inputs = ["good", {"review": "bad bad"}, "", "good " * 9, "bad good bad 京都"]
    answer = client.post("/predict", json={"model": "reviews", "inputs": inputs, "top_k": 2})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [one["label"] for one in body["predictions"]] == ["good", "bad", "good", "good", "bad"]
    odds = [one["top"][0]["probability"] for one in body["predictions"]]
    wanted = [1 / (1 + math.exp(-sums)) for sums in (4, 8, 0, 28, 4)]  # of nine words seven are read
    assert odds == pytest.approx(wanted, abs=1e-6)
    named = client.post("/v1/models/reviews/predict", json={"inputs": ["bad"] * 100})
    assert [one["label"] for one in named.json()["predictions"]] == ["bad"] * 100


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"content": digit(0), "headers": {"content-type": "image/png"}}, "/inputs/0"),
        ({"files": [("file", b"good")]}, "/file/0"),
        ({"json": {"inputs": [7]}}, "/inputs/0"),
        ({"json": {"inputs": [None]}}, "/inputs/0"),
        ({"json": {"inputs": [["good"]]}}, "/inputs/0"),
        ({"json": {"inputs": [{"text": "good"}]}}, "/inputs/0"),
    ],
)
def test_what_is_no_text_is_refused_with_the_way_to_send_one(
    client: TestClient, sent: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/models/reviews/predict", **sent)
    refused(answer, 422, "invalid_data", pointer)
    assert '{"inputs": ["a text"' in answer.json()["errors"][0]["fix"]


def test_several_files_are_answered_in_order(client: TestClient) -> None:
    images = [digit(seed) for seed in range(5)]
    answer = client.post("/predict", data={"model": "digits@2"}, files=[("file", image) for image in images])
    labels = [one["label"] for one in answer.json()["predictions"]]
    assert labels == [str(expected_logits(image, seed=2).argmax()) for image in images]


def test_a_moved_alias_and_a_new_version_are_seen_at_once(application: FastAPI, client: TestClient) -> None:
    sessions: Sessions = application.state.parts.sessions

    def answering(reference: str) -> str:
        body = {"model": reference, "inputs": [text_of(digit(3))]}
        return str(client.post("/predict", json=body).json()["model"])

    assert [answering("digits@champion"), answering("digits")] == ["digits@1", "digits@2"]
    with sessions.write() as session:
        models.point(session, session.query(Model).filter_by(name="digits").one().id, "champion", 2)
    assert answering("digits@champion") == "digits@2"
    with sessions.write() as session:
        add_digits(session, application.state.parts.blobs, seed=3)
    assert answering("digits") == "digits@3"


def test_many_clients_at_once_each_get_their_own_answer(client: TestClient) -> None:
    def ask(seed: int) -> bool:
        image = digit(seed)
        body = {"model": f"digits@{seed % 2 + 1}", "inputs": [text_of(image)], "top_k": 1}
        (one,) = client.post("/predict", json=body).json()["predictions"]
        return bool(one["label"] == str(expected_logits(image, seed=seed % 2 + 1).argmax()))

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(ask, range(60)))


def test_no_session_is_open_while_the_model_computes(
    application: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the threads that answer requests, that is: others of the process use the database when they like."""
    parts: Parts = application.state.parts
    held: set[Any] = set()
    given_back: list[Any] = []
    used: list[int] = []
    original = parts.predictor.logits

    def take(_: Any, record: Any, __: Any) -> None:
        if threading.current_thread().name.startswith("AnyIO"):
            held.add(record)

    def give(_: Any, record: Any) -> None:
        if record in held:
            held.remove(record)
            given_back.append(record)

    def spying(sha256: str, inputs: Any) -> Any:
        used.append(len(held))
        return original(sha256, inputs)

    event.listen(parts.sessions.engine.pool, "checkout", take)
    event.listen(parts.sessions.engine.pool, "checkin", give)

    monkeypatch.setattr(parts.predictor, "logits", spying)
    assert client.post("/predict", json={"model": "plants", "inputs": [ROW]}).status_code == 200
    assert used == [0]
    assert given_back


# ---- what is refused


def test_an_unknown_model_says_what_there_is(client: TestClient) -> None:
    detail = refused(
        client.post("/predict", json={"model": "digit", "inputs": [ROW]}), 404, "not_found", "/model"
    )
    assert "digits" in detail
    answer = client.post("/v1/models/digits@nobody/predict", json={"inputs": [ROW]})
    assert "champion (1)" in refused(answer, 404, "not_found", "/model")


def test_a_model_that_cannot_be_served_says_why(application: FastAPI, client: TestClient) -> None:
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        models.register(session, PROJECT, "teacher", checkpoint(parts.blobs, b"x", source="import"))
        models.register(session, PROJECT, "broken", checkpoint(parts.blobs, b"no model"))
    for name, reason in (("teacher", "imported"), ("broken", "cannot be loaded")):
        answer = client.post("/predict", json={"model": name, "inputs": [text_of(digit(0))]})
        assert reason in refused(answer, 409, "model_not_ready")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"inputs": [ROW]}, ["/model"]),
        ({"model": 7, "inputs": [ROW]}, ["/model"]),
        ({"model": "../etc", "inputs": [ROW]}, ["/model"]),
        ({"model": "plants@1@2", "inputs": [ROW]}, ["/model"]),
        ({"model": "plants"}, ["/inputs"]),
        ({"model": "plants", "inputs": []}, ["/inputs"]),
        ({"model": "plants", "inputs": ROW}, ["/inputs"]),
        ({"model": "plants", "inputs": [ROW] * (MAX_ROWS + 1)}, ["/inputs"]),
        ({"model": "plants", "inputs": [ROW], "top_k": 0}, ["/top_k"]),
        ({"model": "plants", "inputs": [ROW], "top_k": "3"}, ["/top_k"]),
        ({"model": "plants", "inputs": [ROW], "top_k": 1.5}, ["/top_k"]),
        ({"model": "plants", "inputs": [ROW], "top_k": True}, ["/top_k"]),
        ({"model": "plants", "inputs": [ROW], "topk": 1, "a/b": 2}, ["/topk", "/a~1b"]),
        ({"modle": "plants", "inputs": None, "top_k": None}, ["/modle", "/model", "/inputs", "/top_k"]),
        ({"model": "plants", "inputs": [ROW, {"height": 1}, ROW, []]}, ["/inputs/1", "/inputs/3"]),
        ({"model": "digits", "inputs": ["no base64!"]}, ["/inputs/0"]),
        ({"model": "digits", "inputs": [text_of(b"no image")]}, ["/inputs/0"]),
        ([], [""]),
        ("plants", [""]),
    ],
)
def test_a_wrong_body_is_refused_with_the_pointer(client: TestClient, body: Any, pointers: list[str]) -> None:
    answer = client.post("/predict", json=body)
    codes = {"/inputs/1": "invalid_data", "/inputs/0": "invalid_data"}
    refused(answer, 422, codes.get(pointers[0], "invalid_request"), *pointers)


@pytest.mark.parametrize("count", [0, MAX_ROWS + 1])
def test_too_few_or_too_many_rows_are_counted(client: TestClient, count: int) -> None:
    answer = client.post("/predict", json={"model": "plants", "inputs": [ROW] * count})
    assert (
        answer.json()["detail"]
        == f"/inputs: {count:,} rows came; send 1 to {MAX_ROWS:,} rows at once, as a list."
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "plants", "inputs": [[NaN, "red"]]}',
        b'{"model": "plants", "inputs": [[Infinity, "red"]]}',
        b'{"model": "plants", "inputs": [[1e999, "red"]]}',
        b'{"model": "plants", "model": "digits", "inputs": []}',
        b'{"model": "plants", "inputs": [[1, "\\ud800"]]}',
        b'{"model": "plants", "inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "\xff"}',
        b"{",
        b"",
    ],
)
def test_what_is_no_strict_json_is_malformed(client: TestClient, body: bytes) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    refused(answer, 400, "malformed_body")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/octet-stream", "", "image", "application/jsonx"]
)
def test_another_content_type_is_refused_with_those_that_serve(client: TestClient, media_type: str) -> None:
    answer = client.post("/predict?model=digits", content=digit(0), headers={"content-type": media_type})
    assert "multipart/form-data" in refused(answer, 415, "unsupported_media_type")


def test_a_path_that_names_the_model_takes_no_other(client: TestClient) -> None:
    path = "/v1/models/plants/predict"
    refused(client.post(path, json={"model": "plants", "inputs": [ROW]}), 422, "invalid_request", "/model")
    image = client.post(f"{path}?model=digits", content=digit(0), headers={"content-type": "image/png"})
    refused(image, 422, "invalid_request", "/query/model")
    refused(client.post("/v1/models/pl%00ants/predict", json={"inputs": [ROW]}), 404, "not_found")


@pytest.mark.parametrize("query", ["", "?model=digits&top_k=0", "?model=digits&top_k=x", "?model=digits&a=1"])
def test_a_wrong_query_beside_an_image_is_refused(client: TestClient, query: str) -> None:
    answer = client.post(f"/predict{query}", content=digit(0), headers={"content-type": "image/png"})
    assert answer.status_code == 422


def test_a_bad_file_of_a_form_is_named_by_its_number(client: TestClient) -> None:
    files = [("file", digit(0)), ("file", b"no image")]
    refused(client.post("/predict", data={"model": "digits"}, files=files), 422, "invalid_data", "/file/1")
    refused(
        client.post("/predict", data={"model": "digits"}, files=[("image", digit(0))]),
        422,
        "invalid_request",
        "/image",
    )


def test_a_body_above_the_limit_is_too_large(settings: Settings) -> None:
    small = settings.model_copy(update={"max_json_bytes": 2000})
    body = json.dumps({"model": "plants", "inputs": [ROW] * 200})
    with TestClient(create_app(small), base_url="http://127.0.0.1") as client:
        json_answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
        form_answer = client.post("/predict", files=[("file", b"x" * 3000)])
    assert [json_answer.status_code, form_answer.status_code] == [413, 413]


def test_a_long_line_is_answered_with_come_again(
    application: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread and one place in line the third of three requests is sent away."""
    monkeypatch.setattr(api, "IN_PARALLEL", 1)
    monkeypatch.setattr(api, "MAX_WAITING", 1)
    parts: Parts = application.state.parts
    inside, leave = threading.Event(), threading.Event()
    original = parts.predictor.logits

    def slow(sha256: str, inputs: Any) -> Any:
        inside.set()
        assert leave.wait(10)
        return original(sha256, inputs)

    monkeypatch.setattr(parts.predictor, "logits", slow)
    body = {"model": "plants", "inputs": [ROW]}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(client.post, "/predict", json=body)
        assert inside.wait(10)
        second = threads.submit(client.post, "/predict", json=body)
        while application.state.predict_lane.statistics().tasks_waiting == 0:
            leave.wait(0.01)
        third = client.post("/predict", json=body)
        leave.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
    refused(third, 429, "rate_limited")
    assert third.headers["retry-after"] == "1"


def test_the_description_shows_every_way_to_ask(application: FastAPI) -> None:
    paths = application.openapi()["paths"]
    for path in ("/predict", "/v1/models/{reference}/predict"):
        operation = paths[path]["post"]
        assert set(operation["requestBody"]["content"]) == {
            "application/json",
            "multipart/form-data",
            "image/*",
        }
        assert operation["responses"]["200"]["content"]["application/json"]["example"]["predictions"]
        assert {"top_k"} <= {one["name"] for one in operation["parameters"]}
