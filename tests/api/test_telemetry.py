"""/metrics: its figures move after real events, and it names nobody's things."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import event, text, update

from app.api.telemetry import MOST_MODELS, Telemetry
from app.db.session import Sessions
from app.db.tables import Job, Worker
from app.main import create_app
from app.services import checkpoints, claims, garbage, jobs, operation, outbox
from app.settings import Settings
from tests import orders

PROJECT = orders.PROJECT
KEY = "sh_test_" + "k" * 43
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(client: TestClient) -> Figures:
    return read(client.get("/metrics").text)


def read(exposition: str) -> Figures:
    families = list(text_string_to_metric_families(exposition))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name.removeprefix("stillhouse_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(figures: Figures, name: str, **labels: str) -> float:
    return figures[name, frozenset(labels.items())]


def submitted(client: TestClient, **changes: Any) -> str:
    answer = client.post("/v1/jobs", json=orders.spec(resources={"accelerator": "cuda"}, **changes))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_every_figure_is_there_before_anything_has_happened(client: TestClient) -> None:
    figures = scraped(client)
    assert of(figures, "database_up") == 1
    for status in ("queued", "running", "paused"):
        assert of(figures, "jobs", status=status) == 0
    for name in ("jobs_created_total", "jobs_poisoned_total", "outbox", "stored_bytes", "blob_errors_total"):
        assert of(figures, name) == 0
    for name in ("hits", "loads", "failures", "evictions"):
        assert of(figures, f"serving_{name}_total") == 0
    assert of(figures, "queue_jobs", accelerator="cuda") == 0
    assert of(figures, "imports", status="failed") == 0
    assert of(figures, "database_connections") >= 0


def test_a_job_is_seen_from_its_order_to_its_end(client: TestClient) -> None:
    sessions: Sessions = client.app.state.parts.sessions  # type: ignore[attr-defined]
    job_id, other = submitted(client, name="secret-name", labels={"team": "secret-team"}), submitted(client)
    with sessions.write() as session:
        session.execute(
            update(Job).where(Job.id == other).values(available_at=datetime.now(UTC) - timedelta(hours=1))
        )
    figures = scraped(client)
    assert of(figures, "queue_jobs", accelerator="cuda") == 2
    assert 3600 <= of(figures, "queue_oldest_seconds", accelerator="cuda") < 3700

    with sessions.write() as session:
        jobs.cancel(session, PROJECT, other, "discard")
        job = claims.claim(session, "wrk_one/0", ["cuda"], 60)
        assert job is not None
        jobs.start_phase(session, job_id, 1, "train")
        checkpoints.save(session, job_id, 1, step=5, manifest="0" * 64, size=1, best=True, metrics={})
        jobs.end_phase(session, job_id, 1, "train")
    figures = scraped(client)
    assert of(figures, "queue_jobs", accelerator="cuda") == 0
    assert of(figures, "jobs", status="running") == 1
    assert of(figures, "running_jobs", worker="wrk_one") == 1

    with sessions.write() as session:
        jobs.yield_(session, job_id, 1)
        assert claims.claim(session, "wrk_two/0", ["cuda"], 60)
        session.execute(
            update(Job).values(lease_expires_at=datetime(2020, 1, 1, tzinfo=UTC)).where(Job.id == job_id)
        )
        assert jobs.reap(session, 1) == [job_id]
    _all_handed_on(sessions)
    page = client.get("/metrics").text
    figures = read(page)
    assert of(figures, "jobs_created_total") == 2
    assert of(figures, "attempts_started_total") == 2
    assert of(figures, "attempts_ended_total", cause="yielded") == 1
    assert of(figures, "attempts_ended_total", cause="lost") == 1
    assert of(figures, "jobs_poisoned_total") == 1
    assert of(figures, "jobs_ended_total", status="failed") == 1
    assert of(figures, "jobs_ended_total", status="cancelled") == 1
    assert of(figures, "phase_seconds_count", phase="train") == 1
    assert of(figures, "phase_seconds_bucket", phase="train", le="+Inf") == 1
    assert of(figures, "checkpoint_seconds_count") == 1
    assert of(figures, "outbox") == 0
    assert "secret" not in page
    assert job_id not in page


def _all_handed_on(sessions: Sessions) -> None:
    """By the courier of the application or by this."""
    while True:
        with sessions.write() as session:
            if not outbox.hand_on(session):
                return


def test_what_is_counted_outlives_the_process(client: TestClient, settings: Settings) -> None:
    submitted(client)
    _all_handed_on(client.app.state.parts.sessions)  # type: ignore[attr-defined]
    with TestClient(create_app(settings), base_url="http://localhost") as second:
        assert of(scraped(second), "jobs_created_total") == 1


def test_events_that_nobody_hands_on_pile_up_visibly(sessions: Sessions) -> None:
    with sessions.write() as session:
        orders.stock(session)
        orders.submit(session, Settings())
    with sessions.read() as session:
        line = operation.look(session).outbox
    assert line.count == 1
    assert 0 <= line.oldest_s < 60


def test_workers_are_counted_by_how_they_are(sessions: Sessions) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime(2020, 1, 1, tzinfo=UTC)
    with sessions.write() as session:
        for number, (ends, leaving) in enumerate([(soon, False), (soon, True), (past, False), (soon, False)]):
            session.add(
                Worker(
                    id=f"wrk_{number}", host="h", version="1", accelerators=["cpu"], devices=[], slots=1,
                    leaving=leaving, expires_at=ends,
                )
            )  # fmt: skip
    with sessions.read() as session:
        assert operation.look(session).workers == {"ready": 2, "leaving": 1, "lost": 1}


def test_the_store_is_weighed_when_the_garbage_is_collected(client: TestClient) -> None:
    parts = client.app.state.parts  # type: ignore[attr-defined]
    parts.blobs.put([b"x" * 100])
    parts.blobs.put([b"y" * 11])
    garbage.collect(parts)
    figures = scraped(client)
    assert (of(figures, "stored_blobs"), of(figures, "stored_bytes")) == (2, 111)


def test_only_so_many_models_have_series_of_their_own() -> None:
    telemetry = Telemetry()
    for number in range(MOST_MODELS + 20):
        telemetry.predicted(f"mdl_{number}", 0.004, 0.001)
    figures = read(generate_latest(telemetry.registry).decode())
    counts = {key: value for key, value in figures.items() if key[0] == "predict_seconds_count"}
    assert len(counts) == MOST_MODELS + 1
    assert of(figures, "predict_seconds_count", model="other") == 20
    assert of(figures, "predict_inference_seconds_sum", model="mdl_0") == pytest.approx(0.001)


def test_without_a_database_the_process_still_tells_of_itself(client: TestClient) -> None:
    client.get("/healthz")
    sessions = client.app.state.parts.sessions  # type: ignore[attr-defined]
    event.listen(sessions.engine, "do_connect", _refuse)
    sessions.engine.dispose()  # a connection that some thread holds goes back to the pool of before
    try:
        figures = scraped(client)
    finally:
        event.remove(sessions.engine, "do_connect", _refuse)
    assert of(figures, "database_up") == 0
    assert of(figures, "requests_total", method="GET", route="/healthz", status="200") == 1


def _refuse(*_: object) -> None:
    raise sqlite3.OperationalError("gone")


def test_a_scrape_walks_over_no_ended_job(sessions: Sessions) -> None:
    """The plans of its queries, with ended jobs in the table: each finds its rows by an index."""
    statements: list[tuple[str, Any]] = []
    with sessions.write() as session:
        orders.stock(session)
        for _ in range(3):
            orders.submit(session, Settings())
        explain = "EXPLAIN QUERY PLAN"
        if session.connection().dialect.name == "postgresql":
            session.execute(text("SET LOCAL enable_seqscan = off"))  # which it prefers for three rows
            explain = "EXPLAIN"

        @event.listens_for(sessions.engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if " jobs" in statement and not statement.startswith("EXPLAIN"):
                statements.append((statement, parameters))

        operation.look(session)
        event.remove(sessions.engine, "before_cursor_execute", note)
        assert len(statements) == 3
        for statement, parameters in statements:
            explain = (
                "EXPLAIN"
                if "SET LOCAL" and session.connection().dialect.name == "postgresql"
                else "EXPLAIN QUERY PLAN"
            )
            plan = session.connection().exec_driver_sql(f"{explain} {statement}", parameters).all()
            said = " ".join(map(str, plan))
            assert "ix_jobs" in said, said
            assert "SCAN jobs" not in said.replace("SCAN jobs USING COVERING INDEX ix_jobs_due", ""), said


def test_a_scrape_needs_a_key_of_the_operators_own_project(settings: Settings) -> None:
    secured = settings.model_copy(update={"bootstrap_key": SecretStr(KEY), "host": "0.0.0.0"})
    with TestClient(create_app(secured), base_url="http://stillhouse.example") as client:
        operator = {"Authorization": f"Bearer {KEY}"}
        assert client.get("/metrics").status_code == 401
        others = client.post("/v1/projects", json={"name": "others"}, headers=operator).json()["id"]
        codes = []
        for path, scope in (
            ("/v1/keys", "read"),
            ("/v1/keys", "predict"),
            (f"/v1/projects/{others}/keys", "read"),
        ):
            made = client.post(path, json={"name": "prometheus", "scopes": [scope]}, headers=operator)
            assert made.status_code == 201, made.text
            headers = {"Authorization": f"Bearer {made.json()['key']}"}
            codes.append(client.get("/metrics", headers=headers).status_code)
    assert codes == [200, 403, 403]
