"""Stored content goes a day after the last row that named it, and never before."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Base, Chore, Condemned, Dataset, Import, Job, JobCheckpoint, ModelVersion, Signals
from app.ports.parts import Parts
from app.services import garbage, imported
from app.settings import Settings
from app.wiring import assemble
from tests import orders

DAY_S = 86_400


@pytest.fixture
def parts(sessions: Sessions, settings: Settings, database_url: str) -> Iterator[Parts]:
    parts = assemble(settings.model_copy(update={"database_url": database_url}))
    yield parts
    parts.close()


def stored(parts: Parts, content: str, days: float = 3) -> str:
    """Its sha256, as if it had been stored so many days ago."""
    sha256 = parts.blobs.put([content.encode()]).sha256
    age(parts, sha256, days)
    return sha256


def age(parts: Parts, sha256: str, days: float) -> None:
    path = Path(parts.settings.blobs_url.removeprefix("file://")) / "sha256" / sha256[:2] / sha256
    then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))


def a_day_later(sessions: Sessions) -> None:
    with sessions.write() as session:
        session.execute(update(Condemned).values(since=db_now(-DAY_S - 60)))


def there(parts: Parts, *digests: str) -> list[bool]:
    return [parts.blobs.size(one) is not None for one in digests]


def remember(sessions: Sessions, sha256: str, key: str = "k") -> None:
    with sessions.write() as session:
        session.add(Signals(project_id=orders.PROJECT, key=key.ljust(64, "0"), sha256=sha256, size=1))


def test_what_nobody_names_goes_after_a_day_in_which_it_was_condemned(parts: Parts) -> None:
    spare = stored(parts, "spare")
    assert garbage.collect(parts) == 0
    assert garbage.collect(parts) == 0  # condemned, and not for a day yet
    a_day_later(parts.sessions)
    assert garbage.collect(parts) == 1
    assert there(parts, spare) == [False]
    with parts.sessions.read() as session:
        assert session.scalars(select(Condemned)).all() == []


def test_what_is_young_or_stored_anew_or_named_again_stays(parts: Parts) -> None:
    young, anew, again = stored(parts, "young", 0.5), stored(parts, "anew"), stored(parts, "again")
    garbage.collect(parts)
    a_day_later(parts.sessions)
    parts.blobs.put([b"anew"])
    remember(parts.sessions, again)
    assert garbage.collect(parts) == 0
    assert there(parts, young, anew, again) == [True] * 3
    with parts.sessions.write() as session:
        assert session.scalars(select(Condemned)).all() == []
        session.execute(delete(Signals))
    assert garbage.collect(parts) == 0  # its day begins anew
    assert there(parts, again) == [True]


def test_every_column_that_is_called_after_content_is_read() -> None:
    words = ("sha256", "digest", "manifest", "files", "artifacts")
    called = {
        (table.name, column.name)
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if table.name not in garbage.TELLING and any(word in column.name for word in words)
    }
    assert {("jobs", "artifacts"), ("model_versions", "digest"), ("checkpoints", "manifest")} <= called
    assert called <= set(garbage.naming_columns())


def test_a_digest_is_found_wherever_it_stands() -> None:
    digest = "0123456789abcdef" * 4
    told = json.dumps({"files": [{"sha256": digest}], "longer": digest + "0"})
    assert garbage.digests_in(told) == [digest]


def test_rows_of_datasets_models_and_jobs_keep_their_content(parts: Parts) -> None:
    file, weights, report = stored(parts, "file"), stored(parts, "weights"), stored(parts, "report")
    with parts.sessions.write() as session:
        orders.stock(session)
        job = orders.submit(session, parts.settings)
        one = [{"path": "x", "sha256": weights, "size": 1}]
        session.execute(update(Dataset).values(files={"train": {"sha256": file, "size": 1, "rows": 1}}))
        session.execute(update(ModelVersion).values(files=one))
        kept = [{"name": "report.json", "sha256": report, "size": 1, "media_type": "application/json"}]
        session.execute(update(Job).where(Job.id == job.id).values(artifacts=kept))
    garbage.collect(parts)
    a_day_later(parts.sessions)
    assert garbage.collect(parts) == 0
    assert there(parts, file, weights, report) == [True] * 3


def test_what_a_checkpoint_lists_goes_a_while_after_its_job_has_ended(parts: Parts) -> None:
    weights = stored(parts, "weights")
    manifest = stored(parts, json.dumps({"files": [{"sha256": weights}]}))
    with parts.sessions.write() as session:
        orders.stock(session)
        job = orders.submit(session, parts.settings)
        row = JobCheckpoint(
            job_id=job.id, step=1, attempt=1, manifest=manifest, size=1, best=False, metrics={}
        )
        session.add(row)
    garbage.collect(parts)
    a_day_later(parts.sessions)
    assert garbage.collect(parts) == 0
    assert there(parts, weights, manifest) == [True, True]
    with parts.sessions.write() as session:
        week = parts.settings.keep_checkpoints_s
        ended = {"status": "cancelled", "ended_at": db_now(-week - 60)}
        session.execute(update(Job).where(Job.id == job.id).values(**ended))
    garbage.collect(parts)
    a_day_later(parts.sessions)
    assert garbage.collect(parts) == 2
    assert there(parts, weights, manifest) == [False, False]


def test_answers_are_forgotten_when_their_time_is_over(parts: Parts) -> None:
    answers = stored(parts, "answers", 60)
    remember(parts.sessions, answers)
    with parts.sessions.write() as session:
        session.execute(update(Signals).values(created_at=db_now(-parts.settings.keep_answers_s - 60)))
    garbage.collect(parts)
    assert there(parts, answers) == [True]  # a job may have read the row a moment ago
    a_day_later(parts.sessions)
    assert garbage.collect(parts) == 1


def test_imports_are_forgotten_when_nothing_is_known_by_them(parts: Parts) -> None:
    """What was imported is found by its commit as long as it is there, and not fetched again."""
    with parts.sessions.write() as session:
        data = orders.dataset(session)
        made = {"status": "succeeded", "target_id": data.id, "pinned": f"hf:org/iris@{'a' * 40}"}
        failed: dict[str, Any] = {"status": "failed", "error": {}}
        gone = {**made, "target_id": "ds_gone"}
        ended: dict[str, dict[str, Any]] = {
            "older": made,
            "newest": made,
            "other": {**made, "digest": "d" * 64},
        }
        ended |= {"gone": gone, "failed": failed, "cancelled": {"status": "cancelled"}}
        kept_s = parts.settings.keep_imports_s
        for number, (name, row) in enumerate(ended.items()):
            add_import(session, f"imp_{number}_{name}", ended_at=db_now(-kept_s - 60), **row)
        add_import(session, "imp_7_young", ended_at=db_now(-kept_s + 60), **failed)
        add_import(session, "imp_8_queued")
    garbage.collect(parts)
    with parts.sessions.read() as session:
        left = session.scalars(select(Import.id).order_by(Import.id)).all()
        assert left == ["imp_1_newest", "imp_2_other", "imp_7_young", "imp_8_queued"]
        assert imported.identify(session, orders.PROJECT, "dataset", made["pinned"]) == data.id


def add_import(session: Session, id: str, **values: Any) -> None:
    given = {
        "project_id": orders.PROJECT,
        "kind": "dataset",
        "name": "iris",
        "source": "hf:org/iris",
        "texts": {},
    }
    session.add(Import(id=id, **{**given, "digest": "0" * 64, "deadline_at": db_now(60), **values}))


def test_one_process_an_hour_does_it(parts: Parts) -> None:
    def turn() -> bool:
        with parts.sessions.write() as session:
            return garbage.is_my_turn(session)

    assert [turn(), turn()] == [True, False]
    with parts.sessions.write() as session:
        session.execute(update(Chore).values(due_at=db_now(-1)))
    assert [turn(), turn()] == [True, False]
