"""What the database itself refuses, whoever asks: both databases hold the same rules."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import JSON, delete, func, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError

from app.db.dialect import TERMINAL
from app.db.session import Sessions
from app.db.tables import Event, Job, Model, ModelVersion

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ENDED: dict[str, dict[str, Any]] = {
    "succeeded": {"ended_at": AT, "output_version_id": "mdv_1"},
    "failed": {"ended_at": AT, "error": {"code": "poison"}},
    "cancelled": {"ended_at": AT},
}
LEGAL: dict[str, dict[str, Any]] = {
    "queued": {},
    "running": {"lease_owner": "a worker", "lease_expires_at": AT},
    "paused": {},
    **ENDED,
}


@pytest.mark.parametrize("status", LEGAL)
def test_every_legal_state_can_be_stored(sessions: Sessions, status: str) -> None:
    _add(sessions, status=status, **LEGAL[status])
    with sessions.read() as session:
        assert session.scalars(select(Job.status)).all() == [status]


@pytest.mark.parametrize(
    "state",
    [
        {"status": "done"},
        {"desired": "stop"},
        {"status": "running"},
        {"status": "running", "lease_owner": "a worker"},
        {"status": "queued", "lease_owner": "a worker", "lease_expires_at": AT},
        {"status": "queued", "ended_at": AT},
        {"status": "cancelled"},
        {"status": "failed", "ended_at": AT},
        {"status": "queued", "error": {"code": "poison"}},
        {"status": "succeeded", "ended_at": AT},
        {"attempt": -1},
        {"version": 0},
        {"last_seq": -1},
    ],
    ids=str,
)
def test_a_state_that_cannot_be_is_refused(sessions: Sessions, state: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        _add(sessions, **state)


@pytest.mark.parametrize("status", TERMINAL)
def test_a_job_that_has_ended_never_changes_again(sessions: Sessions, status: str) -> None:
    _add(sessions, status=status, **ENDED[status])
    for change in ({"status": "queued", "ended_at": None}, {"name": "renamed"}, {"version": 2}):
        with pytest.raises(DatabaseError), sessions.write() as session:
            session.execute(update(Job).values(change))


def test_a_job_that_has_ended_can_be_deleted_with_all_that_hangs_on_it(sessions: Sessions) -> None:
    _add(sessions, status="cancelled", **ENDED["cancelled"])
    _add_event(sessions)
    with sessions.write() as session:
        session.execute(delete(Job))
    with sessions.read() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 0


def test_an_event_never_changes(sessions: Sessions) -> None:
    _add(sessions)
    _add_event(sessions)
    with pytest.raises(DatabaseError), sessions.write() as session:
        session.execute(update(Event).values(message="it never happened"))


def test_two_events_cannot_have_the_same_number(sessions: Sessions) -> None:
    _add(sessions)
    _add_event(sessions)
    with pytest.raises(IntegrityError):
        _add_event(sessions, id="evt_2")


def test_a_row_cannot_point_at_nothing(sessions: Sessions) -> None:
    with pytest.raises(IntegrityError):
        _add_event(sessions)


def _add(sessions: Sessions, **state: Any) -> None:
    """A queued job, or one in the given state, together with the version that a succeeded one points at."""
    with sessions.write() as session:
        session.add(Model(id="mdl_1", project_id="prj_default", name="student"))
        session.flush()
        session.add(ModelVersion(id="mdv_1", model_id="mdl_1", version=1, **_filled(ModelVersion)))
        session.flush()
        session.add(Job(id="job_1", **_filled(Job) | state))


def _filled(row: type[Model | ModelVersion | Job]) -> dict[str, Any]:
    """A value for every column that must have one and has no default."""
    needed = [column for column in row.__table__.columns if not column.nullable and column.default is None]
    keys = {"id", "model_id", "version", "project_id"}
    values = {
        column.name: {} if isinstance(column.type, JSON) else column.type.python_type()
        for column in needed
        if column.name not in keys
    }
    return {"project_id": "prj_default"} | values


def _add_event(sessions: Sessions, **changes: Any) -> None:
    event = {"job_id": "job_1", "seq": 1, "id": "evt_1", "type": "log", "message": "it happened", "data": {}}
    with sessions.write() as session:
        session.add(Event(**event | changes))
