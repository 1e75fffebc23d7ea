"""One trace tells of a job from its order to its end, over three kinds of processes, and tells no secrets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr
from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Job, SweepTrial
from app.settings import Settings
from tests.irises import FLOWER, iris_order
from tests.test_flow import KEY, ask, ended
from tests.waiting import until

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHERS = "00-11111111111111111111111111111111-2222222222222222-01"
PHASES = ("validate", "fetch", "preflight", "signals", "train", "evaluate", "export", "register")


@dataclass
class Collected:
    """What came so far, by the span's id."""

    url: str = ""
    spans: dict[str, Any] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans.values() if span.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.named(name)
        return span


@contextmanager
def collector() -> Iterator[Collected]:
    """A receiver of OTLP over HTTP."""
    found = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sent = ExportTraceServiceRequest()
            if self.path == "/v1/traces":  # else it is a webhook's delivery
                sent.ParseFromString(body)
            for resource in sent.resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    found.spans[span.span_id.hex()] = span
                    found.services[span.span_id.hex()] = named["service.name"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield found
        server.shutdown()


def test_one_trace_from_the_order_to_the_end(
    service: Callable[..., httpx.Client], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as collected:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        client = service(
            bootstrap_key=SecretStr(KEY),
            log_format="json",
            checkpoint_s=0.0,
            trace_predictions=0.0,
            outgoing_allow=(collected.url.removeprefix("http://"),),
        )
        client.headers["Authorization"] = f"Bearer {KEY}"
        training = {"epochs": 3, "batch_size": 16}
        output = {"model": "iris-tiny"}
        spec = iris_order(client, tmp_path, name="hunter2", training=training, output=output)
        hook = {"url": f"{collected.url}/hook-secret", "types": ["job.ended"]}
        ask(client, "POST", "/v1/webhooks", json=hook)
        accepted = client.post("/v1/jobs", json=spec, headers={"traceparent": CLIENTS})
        assert accepted.status_code == 202, accepted.text
        job = ended(client, accepted.json())
        assert job["status"] == "succeeded", job["error"]
        order_sweep(client, spec)
        for headers in ({}, {"traceparent": CLIENTS}):
            asked = {"inputs": [FLOWER]}
            answer = client.post("/v1/models/iris-tiny/predict", json=asked, headers=headers)
            assert answer.status_code == 200, answer.text
        until(lambda: len(collected.named("POST /v1/models/{reference}/predict")) == 1)
        until(lambda: collected.named("attempt") and collected.named("delivery"))
        until(lambda: collected.named("trial"))

    order = collected.one("POST /v1/jobs")
    assert order.trace_id.hex() == CLIENTS.split("-")[1]
    assert order.parent_span_id.hex() == CLIENTS.split("-")[2]
    trace = [span for span in collected.spans.values() if span.trace_id == order.trace_id]
    parents = {span.name: _name_of(collected, span.parent_span_id.hex()) for span in trace}
    assert parents["submit"] == parents["ring"] == "POST /v1/jobs"
    assert parents["plan"] == parents["claim"] == parents["attempt"] == parents["delivery"] == "submit"
    assert {name: parents[name] for name in PHASES} == dict.fromkeys(PHASES, "attempt")
    assert parents["checkpoint"] == "train"
    services = {span.name: collected.services[span.span_id.hex()] for span in trace}
    assert (services["POST /v1/jobs"], services["train"]) == ("stillhouse-api", "stillhouse-job")

    trial = collected.one("trial")
    assert trial.trace_id.hex() == OTHERS.split("-")[1]
    assert _name_of(collected, trial.parent_span_id.hex()) == "POST /v1/sweeps"
    sessions = Sessions(settings.database_url)
    with sessions.read() as session:
        parent = session.scalar(select(Job.traceparent).join(SweepTrial, SweepTrial.job_id == Job.id))
    sessions.close()
    assert (parent or "").split("-")[1:3] == [trial.trace_id.hex(), trial.span_id.hex()]

    attempt = collected.one("attempt")
    assert order.start_time_unix_nano < attempt.start_time_unix_nano
    assert collected.one("register").end_time_unix_nano <= attempt.end_time_unix_nano
    assert not [span for span in collected.spans.values() if span.name.startswith("GET /readyz")]
    told = str(list(collected.spans.values())) + str(collected.services)
    for secret in (KEY, "hook-secret", str(tmp_path), "iris-tiny", "setosa", "hunter2"):
        assert secret not in told
    log = next(tmp_path.glob("service-*.log")).read_text()
    lines = [line for line in log.splitlines() if order.trace_id.hex() in line]
    assert any('"event": "attempt started"' in line or '"route": "/v1/jobs"' in line for line in lines)
    assert any('"event": "phase started"' in line for line in lines)


def order_sweep(client: httpx.Client, spec: dict[str, Any]) -> None:
    """Of one trial, which no worker here can take."""
    order = {
        "spec": {**spec, "losses": {"preset": "hinton"}, "resources": {"accelerator": "cuda"}},
        "space": {"/losses/temperature": {"kind": "float", "low": 1, "high": 8}},
        "budget": {"trials": 1},
    }
    ask(client, "POST", "/v1/sweeps", json=order, headers={"traceparent": OTHERS})


def _name_of(collected: Collected, span_id: str) -> str:
    return collected.spans[span_id].name if span_id in collected.spans else "outside"
