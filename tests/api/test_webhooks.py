"""Webhooks over HTTP, sent to a real receiver and verified by the reference implementation."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Delivery
from app.main import create_app
from app.services import courier, jobs, outbox
from app.services.deliveries import AT_ONCE, WAITS_S
from app.services.outbox import Placed
from app.settings import Settings
from tests import orders

Json = dict[str, Any]
UNDER_WAY_S = 30


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent; answers with the first of `answers`, then with 204, on /slow when let go."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.held, self.let_go = list[str](), threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.place}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/slow":
            self.server.held.append(self.path)
            self.server.let_go.wait(UNDER_WAY_S)
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.let_go.set()
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture
def client(
    settings: Settings, database: Sessions, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """Its worker has no slot for what needs a GPU; its courier looks often."""
    monkeypatch.setattr(courier, "INTERVAL_S", 0.05)
    allowed = settings.model_copy(update={"outgoing_allow": (receiver.place,)})
    with TestClient(create_app(allowed), base_url="http://localhost") as client:
        with database.write() as session:
            orders.stock(session)
        yield client


def hooked(client: TestClient, receiver: Receiver, **changes: Any) -> Json:
    answer = client.post("/v1/webhooks", json={"url": receiver.url, **changes})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def until(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it is something."""
    deadline = time.monotonic() + UNDER_WAY_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def deliveries(client: TestClient, hook: Json, **query: Any) -> list[Json]:
    answer = client.get(f"/v1/webhooks/{hook['id']}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["data"]
    return found


def ordered(client: TestClient) -> str:
    answer = client.post("/v1/jobs", json=orders.spec(resources={"accelerator": "cuda"}))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_what_happens_to_a_job_is_sent_signed_and_in_order(client: TestClient, receiver: Receiver) -> None:
    hook = hooked(client, receiver, types=["job.created", "job.ended"])
    job_id = ordered(client)
    client.post(f"/v1/jobs/{job_id}/cancel")
    until(lambda: len(deliveries(client, hook, status="delivered")) == 2)
    told = [Verifier(hook["secret"]).verify(body, headers) for headers, body in receiver.got]
    assert sorted(one["type"] for one in told) == ["job.created", "job.ended"]
    assert {one["data"]["job_id"] for one in told} == {job_id}
    headers, body = receiver.got[0]
    with pytest.raises(WebhookVerificationError):
        Verifier(hook["secret"]).verify(body + b" ", headers)
    other = hooked(client, receiver)
    with pytest.raises(WebhookVerificationError):
        Verifier(other["secret"]).verify(body, headers)


def test_a_receiver_that_fails_is_asked_again_later_with_the_same_id(
    client: TestClient, receiver: Receiver, database: Sessions
) -> None:
    hook = hooked(client, receiver)
    receiver.answers = [(500, {}), (429, {"retry-after": "4000"})]
    client.post(f"/v1/webhooks/{hook['id']}/test")
    (row,) = until(lambda: [one for one in deliveries(client, hook) if one["answer"] == 500])
    assert (row["status"], row["attempts"], row["error"]) == ("pending", 1, "it answered 500")
    hurry(database)
    until(lambda: deliveries(client, hook)[0]["answer"] == 429)
    with database.read() as session:
        left = session.get_one(Delivery, row["id"]).available_at - session.scalars(select(db_now())).one()
    assert timedelta(seconds=3900) < left <= timedelta(seconds=4000)  # longer than the next wait of its own
    hurry(database)
    (row,) = until(lambda: deliveries(client, hook, status="delivered"))
    assert (row["attempts"], row["answer"], row["error"], row["next_attempt_at"]) == (3, 204, None, None)
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {row["id"]}
    assert len({body for _, body in receiver.got}) == 1


def test_a_delivery_that_is_never_taken_ends_and_can_be_repeated(
    client: TestClient, receiver: Receiver, database: Sessions
) -> None:
    hook = hooked(client, receiver)
    receiver.answers = [(503, {}), (503, {})]
    tried = client.post(f"/v1/webhooks/{hook['id']}/test").json()
    until(lambda: deliveries(client, hook)[0]["answer"] == 503)
    with database.write() as session:
        session.execute(update(Delivery).values(attempts=len(WAITS_S)))
    hurry(database)
    (row,) = until(lambda: deliveries(client, hook, status="failed"))
    assert (row["id"], row["answer"]) == (tried["id"], 503)
    again = client.post(f"/v1/webhooks/{hook['id']}/deliveries/{row['id']}/repeat")
    assert again.status_code == 202
    (done,) = until(lambda: deliveries(client, hook, status="delivered"))
    assert (done["id"] != row["id"], done["payload"]) == (True, row["payload"])


def test_a_slow_receiver_is_in_nobody_elses_way(client: TestClient, receiver: Receiver) -> None:
    slow = hooked(client, receiver, url=f"http://{receiver.place}/slow")
    for _ in range(courier.SENDERS + 2):
        client.post(f"/v1/webhooks/{slow['id']}/test")
    until(lambda: len(receiver.held) == AT_ONCE)
    quick = hooked(client, receiver)
    client.post(f"/v1/webhooks/{quick['id']}/test")
    until(lambda: deliveries(client, quick, status="delivered"))
    assert (len(receiver.held), deliveries(client, slow, status="delivered")) == (AT_ONCE, [])
    receiver.let_go.set()
    until(lambda: len(deliveries(client, slow, status="delivered")) == courier.SENDERS + 2)


def test_who_answers_gone_is_left_alone(client: TestClient, receiver: Receiver) -> None:
    hook = hooked(client, receiver)
    receiver.answers = [(410, {})]
    path = f"/v1/webhooks/{hook['id']}"
    client.post(f"{path}/test")
    until(lambda: deliveries(client, hook, status="failed"))
    seen = client.get(path).json()
    assert (seen["enabled"], seen["disabled_because"]) == (False, "its receiver answered 410 Gone")
    assert client.post(f"{path}/test").status_code == 409
    assert client.patch(path, json={"enabled": True}).json()["disabled_because"] is None
    assert client.post(f"{path}/test").status_code == 202


@pytest.mark.parametrize(
    ("status", "header"), [(503, ("retry-after", "\u00b2")), (302, ("location", "x" * 64_500))]
)
def test_no_answer_keeps_a_delivery_from_being_recorded(
    client: TestClient, receiver: Receiver, status: int, header: tuple[str, str]
) -> None:
    hook = hooked(client, receiver, url=f"{receiver.url}/{'p' * 1800}/")
    receiver.answers = [(status, dict([header]))]
    client.post(f"/v1/webhooks/{hook['id']}/test")
    (row,) = until(lambda: [one for one in deliveries(client, hook) if one["error"]])
    assert (row["status"], row["attempts"]) == ("pending", 1)


def test_nothing_is_sent_to_a_webhook_that_was_disabled(
    client: TestClient, receiver: Receiver, database: Sessions
) -> None:
    hook = hooked(client, receiver)
    receiver.answers = [(500, {})]
    path = f"/v1/webhooks/{hook['id']}"
    client.post(f"{path}/test")
    until(lambda: [one for one in deliveries(client, hook) if one["answer"] == 500])
    client.patch(path, json={"enabled": False})
    hurry(database)
    (row,) = until(lambda: deliveries(client, hook, status="failed"))
    assert (row["error"], len(receiver.got)) == ("its webhook was disabled", 1)


def test_an_old_secret_signs_beside_a_new_one(client: TestClient, receiver: Receiver) -> None:
    hook = hooked(client, receiver)
    path = f"/v1/webhooks/{hook['id']}"
    rotated = client.post(f"{path}/rotate").json()
    assert rotated["secret"] != hook["secret"]
    assert "secret" not in client.get(path).json()
    client.post(f"{path}/test")
    headers, body = until(lambda: receiver.got)[0]
    for secret in (hook["secret"], rotated["secret"]):
        assert Verifier(secret).verify(body, headers)["type"] == "webhook.test"


@pytest.mark.parametrize(
    "url",
    ["gopher://example.com/", "https://127.0.0.1/", "https://169.254.169.254/latest", "ftp://example.com/"],
)
def test_no_address_of_our_own_network_is_called(client: TestClient, url: str) -> None:
    answer = client.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/url")


def test_what_leads_nowhere_is_told_without_addresses(
    client: TestClient, receiver: Receiver, database: Sessions
) -> None:
    hook = hooked(client, receiver)
    path = f"/v1/webhooks/{hook['id']}"
    assert client.patch(path, json={"url": "https://nowhere.invalid/"}).status_code == 200
    client.post(f"{path}/test")
    (row,) = until(lambda: [one for one in deliveries(client, hook) if one["error"]])
    assert (row["answer"], row["error"]) == (None, "the name has no address")


def test_all_of_a_project_is_one_stream(client: TestClient, database: Sessions) -> None:
    first, second = ordered(client), ordered(client)
    client.post(f"/v1/jobs/{first}/cancel")
    found = until(lambda: (all_ := client.get("/v1/events").json()["data"]) and len(all_) == 4 and all_)
    assert [one["place"] for one in found] == [1, 2, 3, 4]
    assert [one["job_id"] for one in found] == [first, second, first, first]
    page = client.get("/v1/events?limit=3").json()
    assert (page["has_more"], page["next"]) == (True, "3")
    (last,) = client.get("/v1/events?after=3").json()["data"]
    assert last["type"] == "job.ended"
    assert client.get("/v1/events?type=job.ended").json()["data"] == [last]
    assert client.get("/v1/events?type=nonsense").status_code == 422
    with client.stream(
        "GET", "/v1/events", headers={"accept": "text/event-stream", "last-event-id": "3"}
    ) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("id:")) == "id: 4"
        with database.write() as session:
            jobs.cancel(session, orders.PROJECT, second, "discard")
        assert next(line for line in lines if line.startswith("id:")) == "id: 5"


def test_a_stream_of_few_types_never_reads_the_rest_again(
    client: TestClient, database: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = list[int](), outbox.stream

    def note(session: Session, project_id: str, after: int, *rest: Any) -> list[Placed]:
        asked.append(after)
        return read(session, project_id, after, *rest)

    job = ordered(client)
    until(lambda: client.get("/v1/events").json()["data"])
    monkeypatch.setattr(outbox, "stream", note)

    def cancel() -> None:
        until(lambda: asked)
        with database.write() as session:
            jobs.cancel(session, orders.PROJECT, job, "discard")

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    headers = {"accept": "text/event-stream"}
    with client.stream("GET", "/v1/events?type=job.ended", headers=headers) as stream:
        assert next(line for line in stream.iter_lines() if line.startswith("id:")) == "id: 3"
    cancelling.join()
    assert asked[0] == 0
    assert 0 not in asked[1:]


def hurry(database: Sessions) -> None:
    with database.write() as session:
        session.execute(update(Delivery).where(Delivery.status == "pending").values(available_at=db_now()))
