"""A database of an older version, with jobs in every state, is migrated, and its jobs go on.

Its rows are written as that version wrote them, by SQL that knows the old columns alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session

from app.catalog.spec import Resolved
from app.db.dialect import UtcTime
from app.db.migrate import is_current, upgrade
from app.db.session import Sessions
from app.db.tables import Event, Job, Project, Sweep
from app.services import claims, jobs, outbox
from app.settings import Settings
from tests import orders

OLD = "0003"
PROJECT = orders.PROJECT
NOW = datetime.now(UTC)
PAST, STATES = NOW - timedelta(hours=3), ("queued", "running", "paused", "succeeded", "failed", "cancelled")


@pytest.fixture
def old_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """The same kind of database, empty, at the old revision."""
    if database_url.startswith("sqlite"):
        url = database_url.replace("stillhouse.db", "old.db")
    else:
        url = database_url
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    upgrade(url, OLD)
    return url


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An order as the old version resolved it: without what came since."""
    url = f"sqlite:///{tmp_path_factory.mktemp('new')}/new.db"
    upgrade(url)
    with _opened(url) as sessions, sessions.write() as session:
        session.add(Project(id=PROJECT, name="default"))
        session.flush()
        orders.stock(session)
        order: dict[str, Any] = orders.submit(session, Settings()).resolved
    del order["spec"]["resources"]["devices"]
    return order


@contextmanager
def _opened(url: str) -> Iterator[Sessions]:
    sessions = Sessions(url)
    try:
        yield sessions
    finally:
        sessions.close()


def write(session: Session, table: str, **values: Any) -> None:
    given = {
        name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in values.items()
    }
    places = ", ".join(f":{name}" for name in given)
    times = [bindparam(name, type_=UtcTime()) for name in given if name == "at" or name.endswith("_at")]
    session.execute(
        text(f"INSERT INTO {table} ({', '.join(given)}) VALUES ({places})").bindparams(*times), given
    )


def fill(session: Session, resolved: dict[str, Any]) -> None:
    write(session, "projects", id=PROJECT, name="default", created_at=PAST)
    write(session, "keys", id="key_a", project_id=PROJECT, name="a", digest="0" * 64, created_at=PAST)
    write(session, "models", id="mod_a", project_id=PROJECT, name="out", last_version=1, created_at=PAST)
    write(
        session, "model_versions", id="mdl_a", project_id=PROJECT, model_id="mod_a", version=1,
        digest="1" * 64, source="job", format="mlp", family="mlp", task="tabular_classification",
        labels=["a"], input={}, preprocessing={}, gives=[], details={}, parameters=1,
        size=1, files=[], lineage={}, created_at=PAST,
    )  # fmt: skip
    for status in STATES:
        _write_job(session, status, resolved)
    write(
        session, "sweeps", id="swp_a", project_id=PROJECT, name="s", spec={}, resolved={}, seed=1,
        status="cancelled", desired="cancel", version=2, created_at=PAST, ended_at=PAST,
    )  # fmt: skip
    write(
        session, "sweep_trials", sweep_id="swp_a", number=0, job_id="job_failed", parameters={},
        status="failed", curve=[], created_at=PAST, ended_at=PAST,
    )  # fmt: skip


def _write_job(session: Session, status: str, resolved: dict[str, Any]) -> None:
    over = status in STATES[3:]
    running = status == "running"
    error = {"code": "poison", "detail": "d"} if status == "failed" else None
    phases = [{"name": "train", "status": "pending", "progress": 0, "started_at": None, "ended_at": None}]
    artifacts = [{"name": "report.json", "sha256": "2" * 64, "size": 7, "media_type": "application/json"}]
    write(
        session, "jobs", id=f"job_{status}", project_id=PROJECT, name=f"an old {status} one",
        task="tabular_classification", spec=orders.spec(), resolved=resolved, spec_digest="3" * 64,
        status=status, desired="pause" if status == "paused" else "run", version=4, last_seq=2,
        priority=50, accelerator="auto",
        attempt=int(status != "queued"), lease_owner="a:1:2" if running else None,
        lease_expires_at=PAST if running else None, available_at=PAST,
        deadline_at=NOW + timedelta(hours=1) if running else None, interruptions=0, failures=0, no_progress=0,
        phases_done=0, phases=phases, progress={"step": 3}, best=None, outcome=None, error=error, usage={},
        output_version_id="mdl_a" if status == "succeeded" else None,
        result_manifest="1" * 64 if status == "succeeded" else None,
        artifacts=artifacts if status == "succeeded" else [], created_at=PAST,
        started_at=None if status == "queued" else PAST, ended_at=PAST if over else None,
    )  # fmt: skip
    for seq in (1, 2):
        write(
            session, "events", job_id=f"job_{status}", seq=seq, id=f"evt_{status}{seq}", type="log",
            level="info", at=PAST, message="m", data={},
        )  # fmt: skip
    write(session, "job_labels", job_id=f"job_{status}", key="team", value="a")
    point = {"name": "loss", "split": "train", "step": 3, "value": 0.5}
    write(session, "metrics", job_id=f"job_{status}", at=PAST, **point)


@pytest.fixture
def upgraded(old_url: str, resolved: dict[str, Any]) -> Iterator[Sessions]:
    with _opened(old_url) as sessions:
        assert not is_current(sessions.engine)
        with sessions.write() as session:
            fill(session, resolved)
    upgrade(old_url)
    with _opened(old_url) as sessions:
        assert is_current(sessions.engine)
        yield sessions


def test_jobs_of_an_older_version_go_on(upgraded: Sessions) -> None:
    with upgraded.write() as session:
        assert jobs.reap(session, 3) == ["job_running"]
        reaped = session.get_one(Job, "job_running", populate_existing=True)
        assert (reaped.status, reaped.failures) == ("queued", 1)
        assert reaped.runtime_left_s is not None
    with upgraded.write() as session:
        session.execute(text("UPDATE jobs SET available_at = created_at WHERE id = 'job_running'"))
        jobs.resume(session, PROJECT, "job_paused")
    taken = {}
    for owner in ("wrk_a/1", "wrk_a/2", "wrk_a/3"):
        with upgraded.write() as session:
            job = claims.claim(session, owner, ["cpu"], 60)
            assert job is not None
            taken[job.id] = job
            assert job.deadline_at is not None  # max_runtime_s holds for jobs from before, too
            assert Resolved.model_validate(job.resolved).spec.resources.devices == 1
    assert {job_id: job.attempt for job_id, job in taken.items()} == {
        "job_queued": 1, "job_paused": 2, "job_running": 2
    }  # fmt: skip
    with upgraded.write() as session:
        jobs.start_phase(session, "job_queued", 1, "train")
        jobs.fail(session, "job_queued", 1, {"code": "x", "detail": "d", "phase": "train"})
        assert outbox.hand_on(session) > 0


def test_what_has_ended_is_unchanged(upgraded: Sessions) -> None:
    with upgraded.read() as session:
        for status in STATES[3:]:
            job = session.get_one(Job, f"job_{status}")
            told = (job.status, job.version, job.name, job.ended_at, job.progress, job.attempt)
            assert told == (status, 4, f"an old {status} one", PAST, {"step": 3}, 1)
            assert [event.id for event in session.query(Event).where(Event.job_id == job.id)] == [
                f"evt_{status}1", f"evt_{status}2"
            ]  # fmt: skip
        assert session.get_one(Job, "job_succeeded").artifact_bytes == 7
        assert session.get_one(Sweep, "swp_a").status == "cancelled"
        counts = {
            table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("jobs", "events", "job_labels", "metrics", "sweep_trials", "keys", "model_versions")
        }
    assert counts == {
        "jobs": 6, "events": 12, "job_labels": 6, "metrics": 6, "sweep_trials": 1, "keys": 1,
        "model_versions": 1,
    }  # fmt: skip
    with pytest.raises(Exception, match=r"never change"), upgraded.write() as session:
        session.execute(text("UPDATE jobs SET name = 'x' WHERE id = 'job_failed'"))
