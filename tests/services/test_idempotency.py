"""What POSTs were answered with goes a day later, and finding it costs nothing however many there are."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from app.db.dialect import db_now, now
from app.db.session import Sessions
from app.db.tables import Idempotency, Import
from app.services import idempotency
from app.services.idempotency import KEPT_S

PROJECT = "prj_default"


def test_old_keys_are_found_by_their_age(sessions: Sessions) -> None:
    """Postgres counts by itself, and here it is told to; SQLite never does."""
    with sessions.write() as session:
        same = {"project_id": PROJECT, "body_digest": "0" * 64, "import_id": add_import(session)}
        session.execute(insert(Idempotency), [{"key": f"young{number}", **same} for number in range(2_000)])
        session.add(Idempotency(key="old", created_at=db_now(-KEPT_S - 60), **same))
    explain = "EXPLAIN QUERY PLAN"
    if sessions.engine.dialect.name == "postgresql":
        explain = "EXPLAIN"
        with sessions.write() as session:
            session.execute(text("ANALYZE"))
    oldest = idempotency._oldest(PROJECT)
    compiled = oldest.compile(sessions.engine, compile_kwargs={"literal_binds": True})
    with sessions.read() as session:
        plan = " ".join(str(row[-1]) for row in session.execute(text(f"{explain} {compiled}")))
    assert "ix_idempotency_project_id_created_at" in plan
    assert "created_at<" in plan or "created_at <" in plan.partition("Index Cond")[2], plan

    with sessions.write() as session:
        idempotency.once(session, PROJECT, "new", "1" * 64, lambda: {"import_id": "imp_a"})
    with sessions.read() as session:
        left = session.scalars(select(Idempotency.key)).all()
    assert (len(left), "old" in left, "new" in left) == (2_001, False, True)


def test_an_old_key_counts_no_more_though_older_ones_are_left(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MOST_FORGOTTEN", 2)
    with sessions.write() as session:
        same = {"project_id": PROJECT, "body_digest": "0" * 64, "import_id": add_import(session)}
        old = [{"key": f"{n}", "created_at": now() - timedelta(days=9 - n), **same} for n in range(5)]
        session.execute(insert(Idempotency), old)
    with sessions.write() as session:
        made = idempotency.once(session, PROJECT, "4", "1" * 64, lambda: {"import_id": "imp_a"})
        assert made.body_digest == "1" * 64
    with sessions.read() as session:
        assert session.scalars(select(Idempotency.key).order_by(Idempotency.key)).all() == ["2", "3", "4"]


def add_import(session: Session) -> str:
    """Something that was made; its id."""
    texts = {"kind": "model", "name": "n", "source": "hf:o/r", "texts": {}, "digest": "0" * 64}
    session.add(Import(id="imp_a", project_id=PROJECT, deadline_at=db_now(60), **texts))
    session.flush()
    return "imp_a"
