"""What every route gets without asking: a lock, an id, caps, strict bodies and errors with one face."""

import base64
import hashlib
import json
import re
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import pytest
import structlog
from fastapi import APIRouter, Body, FastAPI, Form, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy.exc import OperationalError
from starlette.routing import Route

import app.main
from app.catalog.spec import JobSpec
from app.errors import Overloaded, StateConflict, Unavailable
from app.main import create_app
from app.settings import Settings

HOME = "http://127.0.0.1"
KEY = "sh_test_" + "k" * 43
OPEN = {
    "/healthz",
    "/readyz",
    "/docs",
    "/docs/{name}",
    "/openapi.json",
}  # they tell nothing of anybody's work
router = APIRouter(prefix="/odd")
Open = Callable[..., AbstractContextManager[TestClient]]


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str
    stars: int = 0


@router.post("/notes")
def take(note: Note) -> dict[str, Any]:
    return note.model_dump()


@router.post("/maybe")
def maybe(note: Annotated[Note | None, Body()] = None) -> bool:
    return note is not None


@router.post("/specs")
def take_spec(spec: JobSpec) -> str:
    return spec.name


@router.post("/forms")
def take_form(text: Annotated[str, Form()]) -> str:
    return text


@router.post("/raw")
async def take_raw(request: Request) -> int:
    return len(await request.body())


@router.get("/things/{number}")
def thing(number: int, request: Request, limit: int = 1) -> str:
    return f"{number} {limit} {request.state.request_id}"


@router.get("/broken")
def broken() -> None:
    raise RuntimeError("the secret is in /etc/passwd")


@router.get("/wrong-answer")
def wrong_answer() -> Note:
    return "no note"  # type: ignore[return-value]


@router.get("/away")
def away() -> None:
    raise OperationalError("SELECT secret", {}, Exception("db.internal refused"))


@router.get("/overloaded")
def overloaded() -> None:
    raise Overloaded("Eight at once are enough.", retry_after_s=7)


@router.get("/unavailable")
def unavailable() -> None:
    raise Unavailable("Soon.")


@router.get("/conflict")
def conflict() -> None:
    raise StateConflict("It has ended.")


@pytest.fixture
def open_door(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`open_door(max_json_bytes=...)` gives a client of an application with this file's odd router too."""
    found = app.main._modules_with_router
    odd = types.ModuleType("odd")
    odd.router = router  # type: ignore[attr-defined]
    monkeypatch.setattr(app.main, "_modules_with_router", lambda: [*found(), odd])

    @contextmanager
    def opened(**changes: Any) -> Iterator[TestClient]:
        application = create_app(settings.model_copy(update=changes))
        with TestClient(application, base_url=HOME, raise_server_exceptions=False) as client:
            yield client

    return opened


@pytest.fixture
def client(open_door: Open) -> Iterator[TestClient]:
    with open_door() as client:
        yield client


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code), body
    assert set(body) == {
        "type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "errors"
    }  # fmt: skip
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_a_url_with_nul_is_refused_before_a_database_sees_it(client: TestClient) -> None:
    problem(client.get("/v1/jobs/%00"), 404, "not_found")
    for url in ("/v1/jobs?q=a%00b", "/v1/jobs?label.%00=x"):
        problem(client.get(url), 422, "invalid_request")
    assert client.get("/odd/things/1?limit=%32").status_code == 200


# ---- the lock


def all_routes(application: FastAPI) -> Iterator[tuple[str, str]]:
    for context in iter_route_contexts(application.routes):
        assert isinstance(context.original_route, APIRoute), context
        for method in context.original_route.methods or ():
            yield method, context.original_route.path_format


def test_with_keys_every_route_but_the_open_ones_needs_one(settings: Settings) -> None:
    application = create_app(settings.model_copy(update={"bootstrap_key": SecretStr(KEY), "host": "0.0.0.0"}))
    open_ones = set()
    with TestClient(application, base_url="http://stillhouse.example") as client:
        routes = list(all_routes(application))
        for method, path in routes:
            response = client.request(method, path.replace("{", "").replace("}", ""))
            if response.status_code == 401:
                assert response.headers["www-authenticate"] == "Bearer"
                problem(response, 401, "unauthenticated")
            else:
                open_ones.add(path)
                assert (method, response.status_code < 500) == ("GET", True)
        allowed = client.get("/v1/capabilities", headers={"Authorization": f"Bearer {KEY}"})
    assert open_ones == OPEN
    assert {"/metrics", "/predict", *OPEN} <= {path for _, path in routes}
    assert allowed.status_code == 200


def test_without_keys_every_route_but_the_open_ones_refuses_another_host(settings: Settings) -> None:
    application = create_app(settings)
    with TestClient(application, base_url="http://evil.example") as client:
        for method, path in all_routes(application):
            response = client.request(method, path.replace("{", "").replace("}", ""))
            assert (response.status_code != 403) == (path in OPEN), path


def test_the_lock_comes_before_parameters_and_bodies(client: TestClient) -> None:
    headers = {"Host": "evil.example", "Content-Type": "text/plain"}
    assert client.get("/odd/things/x", headers=headers).status_code == 403
    assert client.post("/odd/notes", content=b"{", headers=headers).status_code == 403
    assert client.post("/odd/forms", content=b"{", headers=headers).status_code == 403


def test_a_route_that_cannot_be_locked_is_not_mounted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = types.ModuleType("odd")
    odd.router = APIRouter(routes=[Route("/hole", lambda request: Response())])  # type: ignore[attr-defined]
    monkeypatch.setattr(app.main, "_modules_with_router", lambda: [odd])
    with pytest.raises(TypeError, match="before the lock"):
        create_app(settings)


@pytest.mark.parametrize(("method", "scope"), [("TRACE", None), ("GET", "superuser")])
def test_a_route_whose_scope_nobody_knows_is_not_mounted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, method: str, scope: str | None
) -> None:
    odd = types.ModuleType("odd")
    odd.router = APIRouter()  # type: ignore[attr-defined]
    odd.router.add_api_route("/hole", lambda: None, methods=[method])
    odd.scope = scope  # type: ignore[attr-defined]
    monkeypatch.setattr(app.main, "_modules_with_router", lambda: [odd])
    with pytest.raises(TypeError, match="no scope is known"):
        create_app(settings)


# ---- errors with one face


def test_an_unknown_path_and_an_unknown_method(client: TestClient) -> None:
    problem(client.get("/no/such?secret=1"), 404, "not_found")
    response = client.delete("/odd/notes")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert client.get("/healthz/", follow_redirects=False).status_code == 404


def test_a_wrong_field_is_pointed_at(client: TestClient) -> None:
    body = problem(client.post("/odd/notes", json={"txt": "x", "stars": "many"}), 422, "invalid_request")
    assert {fault["pointer"] for fault in body["errors"]} == {"/text", "/stars", "/txt"}
    assert all(fault["fix"] for fault in body["errors"])
    body = problem(client.get("/odd/things/x?limit=y"), 422, "invalid_request")
    assert {fault["pointer"] for fault in body["errors"]} == {"/path/number", "/query/limit"}
    problem(client.post("/odd/notes"), 422, "invalid_request")
    problem(client.post("/odd/specs", json={}), 422, "invalid_spec")


def test_what_breaks_is_logged_and_not_told(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("/odd/broken", "/odd/wrong-answer"):
        body = problem(client.get(path), 500, "internal")
        assert "secret" not in str(body)
        assert "no note" not in str(body)
    written = capfd.readouterr()
    assert "the secret is in /etc/passwd" in written.err + written.out


def test_a_database_that_is_away_is_no_mistake_of_ours(client: TestClient) -> None:
    body = problem(client.get("/odd/away"), 503, "unavailable")
    assert body["retryable"]
    assert "SELECT" not in str(body)
    assert "db.internal" not in str(body)


def test_who_should_come_again_is_told_when(client: TestClient) -> None:
    overloaded, unavailable = client.get("/odd/overloaded"), client.get("/odd/unavailable")
    assert problem(overloaded, 429, "rate_limited")["retryable"]
    assert overloaded.headers["retry-after"] == "7"
    problem(unavailable, 503, "unavailable")
    assert int(unavailable.headers["retry-after"]) > 0
    assert not problem(client.get("/odd/conflict"), 409, "state_conflict")["retryable"]


# ---- bodies


@pytest.mark.parametrize(
    "body",
    [b"{", b"NaN", b'{"text": 1e999}', b'{"text": "\\ud800"}', b'{"text": "\\u0000"}',
     b'{"text": 1, "text": 1}', b"\xff", b"[" * 5000, b"9" * 5000, b'{"stars": 123456789012345678901}'],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/odd/notes", "/odd/maybe", "/odd/specs"])
def test_a_malformed_body_is_400_on_every_json_route(client: TestClient, path: str, body: bytes) -> None:
    problem(
        client.post(path, content=body, headers={"Content-Type": "application/json"}), 400, "malformed_body"
    )


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ";"],
)
def test_a_body_that_is_not_called_json_is_415(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    problem(
        client.post("/odd/notes", content=b'{"text": "x"}', headers=headers), 415, "unsupported_media_type"
    )


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
)
def test_every_name_of_json_will_do(client: TestClient, content_type: str) -> None:
    response = client.post(
        "/odd/notes", content=b'{"text": "\xc3\xa9"}', headers={"Content-Type": content_type}
    )
    assert response.json() == {"text": "é", "stars": 0}


def test_a_packed_body_is_415_and_its_encoding_is_named(client: TestClient) -> None:
    packed = client.post("/odd/notes", content=b"x", headers={"Content-Encoding": "gzip"})
    problem(packed, 415, "unsupported_media_type")
    assert "Content-Encoding 'gzip'" in packed.json()["detail"]
    plain = client.post("/odd/notes", json={"text": "x"}, headers={"Content-Encoding": "identity"})
    assert plain.json() == {"text": "x", "stars": 0}


def test_no_body_is_fine_where_none_is_needed(client: TestClient) -> None:
    assert client.post("/odd/maybe").json() is False
    assert client.post("/odd/maybe", headers={"Content-Type": "application/json"}).json() is False
    assert client.post("/odd/maybe", json={"text": "x"}).json() is True


def test_a_form_that_cannot_be_read_is_400(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(client.post("/odd/forms", content=b"no boundary", headers=headers), 400, "malformed_body")
    assert client.post("/odd/forms", data={"text": "x"}).json() == "x"


def test_json_has_a_cap_with_and_without_a_length(open_door: Open) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(size):
            yield b"x" * 100
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    with open_door(max_json_bytes=1000) as client:
        problem(client.post("/odd/notes", json={"text": "x" * 1000}), 413, "payload_too_large")
        problem(client.post("/odd/notes", content=chunks(20), headers=headers), 413, "payload_too_large")
        problem(client.post("/odd/raw", content=b"x" * 1001), 413, "payload_too_large")
        problem(client.post("/odd/raw", content=chunks(20)), 413, "payload_too_large")
        assert client.post("/odd/notes", content=chunks(5), headers=headers).status_code == 200
        assert client.post("/odd/raw", content=b"x" * 1000).json() == 1000


def test_a_second_content_type_lifts_no_cap(open_door: Open) -> None:
    types = [("Content-Type", "application/json"), ("Content-Type", "multipart/form-data; boundary=x")]
    with open_door(max_json_bytes=1000) as client:
        answer = client.post("/odd/notes", content=b'{"text": "%s"}' % (b"x" * 1000), headers=types)
        problem(answer, 413, "payload_too_large")


def test_an_upload_has_a_cap_of_its_own(open_door: Open) -> None:
    with open_door(max_json_bytes=100, max_upload_bytes=10_000) as client:
        assert client.post("/odd/forms", files={"text": (None, "x" * 1000)}).status_code == 200
        too_large = client.post("/odd/forms", files={"text": (None, "x" * 20_000)})
        problem(too_large, 413, "payload_too_large")


def test_a_large_body_is_read_as_strictly(client: TestClient) -> None:
    body = b'{"text": "' + b"x" * 200_000 + b'", "stars": NaN}'
    problem(
        client.post("/odd/notes", content=body, headers={"Content-Type": "application/json"}),
        400,
        "malformed_body",
    )
    assert client.post("/odd/notes", json={"text": "x" * 200_000}).status_code == 200


@pytest.mark.parametrize(
    ("note", "pointer"),
    [({"text": "x", "stars": "3"}, "/stars"), ({"text": "x", "stars": True}, "/stars"),
     ({"text": 5}, "/text"), ({"text": "x", "stars": 1.5}, "/stars")],
)  # fmt: skip
def test_a_value_of_another_type_is_not_taken_for_a_number(
    client: TestClient, note: dict[str, Any], pointer: str
) -> None:
    body = problem(client.post("/odd/notes", json=note), 422, "invalid_request")
    assert [fault["pointer"] for fault in body["errors"]] == [pointer]


def test_numbers_as_texts_are_refused_anywhere_in_a_spec(client: TestClient) -> None:
    body = problem(client.post("/odd/specs", json={"training": {"epochs": "5"}}), 422, "invalid_spec")
    assert "/training/epochs" in {fault["pointer"] for fault in body["errors"]}


@pytest.mark.parametrize(
    "order",
    [{"task": {"kind": "LONG"}}, {"LONG": 1}, {"name": "LONG"}, {"labels": {"LONG": "LONG"}},
    {"teachers": ["LONG"]},
     {"teachers": [{"model": "LONG"}]}, {"data": {"train": "LONG"}}, {"training": {"epochs": "LONG"}},
     {"losses": [{"kind": "LONG"}]}, {"losses": [{"kind": "kd", "LONG": 1}]}, {"student": "LONG"}],
    ids=str,
)  # fmt: skip
def test_a_refusal_repeats_a_short_piece_at_most(client: TestClient, order: dict[str, Any]) -> None:
    sent = json.dumps(order).replace("LONG", "Secret-" * 100)
    answer = client.post("/odd/specs", content=sent, headers={"Content-Type": "application/json"})
    problem(answer, 422, "invalid_spec")
    assert "Secret-" * 16 not in answer.text


def test_bodies_that_wait_have_a_cap_together_and_let_go_of_it(open_door: Open) -> None:
    with open_door(max_waiting_bytes=1000) as client:
        for _ in range(3):
            refused = client.post("/odd/raw", content=b"x" * 1001)
            assert problem(refused, 503, "unavailable")["retryable"]
            assert client.post("/odd/raw", content=b"x" * 1000).json() == 1000
            assert client.post("/odd/forms", files={"text": (None, "x" * 2000)}).status_code == 200


# ---- queries, methods and headers


def test_a_parameter_that_nobody_knows_is_named(client: TestClient) -> None:
    body = problem(client.get("/odd/things/1?limt=3&x=" + "y" * 500), 422, "invalid_request")
    assert [fault["pointer"] for fault in body["errors"]] == ["/query/limt", "/query/x"]
    assert "`limit`" in body["errors"][0]["fix"]
    assert "yyy" not in str(body)
    assert client.get("/v1/jobs?label.team=vision&status=queued").status_code == 200
    problem(client.get("/v1/jobs?labels=vision"), 422, "invalid_request")
    assert client.get("/healthz?probe=1").status_code == 200


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "1999-12-31T23:59:59Z"]
)
def test_times_at_the_ends_of_the_calendar_are_refused(client: TestClient, moment: str) -> None:
    """No database and no arithmetic holds there."""
    order = {"name": "x", "scopes": ["read"], "expires_at": moment}
    answers = (
        client.post("/v1/keys", json=order),
        client.get("/v1/audit", params={"from": moment}),
        client.get("/v1/usage", params={"from": moment[:10]}),
        client.get("/v1/usage", params={"to": moment[:10]}),
    )
    assert {answer.status_code for answer in answers} <= {403, 422}, [answer.text for answer in answers]
    assert "/expires_at" in str(answers[0].json()["errors"])


def test_head_is_get_without_the_body(client: TestClient) -> None:
    for path in ("/odd/things/1", "/docs/favicon.png", "/v1/capabilities"):
        got, asked = client.get(path), client.head(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == str(len(got.content))
        assert asked.headers["content-type"] == got.headers["content-type"]
    assert client.head("/nowhere").status_code == 404
    assert client.head("/odd/notes").status_code == 405


def test_every_answer_has_its_manners(client: TestClient) -> None:
    for answer in (client.get("/odd/things/1"), client.get("/nowhere"), client.get("/odd/broken")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_the_documentation_runs_its_own_scripts_and_no_others(client: TestClient) -> None:
    page = client.get("/docs")
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r'src="(.*?)"', page.text) == ["/docs/swagger-ui-bundle.js"]


# ---- ids, lines and figures


def test_a_request_id_goes_in_and_out(client: TestClient) -> None:
    response = client.get("/odd/things/1", headers={"X-Request-Id": "mine-1.2_3"})
    assert response.headers["x-request-id"] == "mine-1.2_3"
    assert response.json() == "1 1 mine-1.2_3"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", 'a"b'])
def test_a_request_id_that_is_not_plain_is_replaced(client: TestClient, given: str) -> None:
    response = client.get("/healthz", headers={b"X-Request-Id": given.encode()})
    assert response.headers["x-request-id"].startswith("req_")


def test_a_request_is_one_line_with_its_route_and_not_its_path(client: TestClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        client.get("/odd/things/7", headers={"X-Request-Id": "seven"})
        client.get("/secret/path")
    known, unknown = (line for line in lines if line["event"] == "request")
    assert (known["method"], known["route"], known["status"]) == ("GET", "/odd/things/{number}", 200)
    assert known["request_id"] == "seven"
    assert known["duration_ms"] >= 0
    assert (unknown["route"], unknown["status"]) == ("unknown", 404)
    assert "secret" not in str(unknown)


def test_metrics_count_by_route_and_status(client: TestClient) -> None:
    for path in ("/odd/things/1", "/odd/things/2", "/nowhere"):
        client.get(path)
    text = client.get("/metrics").text
    assert 'stillhouse_requests_total{method="GET",route="/odd/things/{number}",status="200"} 2.0' in text
    assert 'stillhouse_requests_total{method="GET",route="unknown",status="404"} 1.0' in text
    assert 'stillhouse_request_seconds_count{method="GET",route="/odd/things/{number}"} 2.0' in text
    assert 'stillhouse_jobs{status="queued"} 0.0' in text
    assert "process_resident_memory_bytes" in text


def test_two_applications_count_apart(open_door: Open) -> None:
    with open_door() as one, open_door() as other:
        one.get("/healthz")
        assert "/healthz" not in other.get("/metrics").text
