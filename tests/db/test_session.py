"""Sessions and moments mean the same on both databases."""

import socket
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Integer, cast, insert, literal, select, update
from sqlalchemy.exc import DataError, IntegrityError, StatementError

from app.db.dialect import UtcTime, db_now, now
from app.db.session import LINE, OUTAGES, Sessions
from app.db.tables import Project


def test_write_commits_when_its_block_ends_well(sessions: Sessions) -> None:
    with sessions.write() as session:
        session.add(Project(id="prj_2", name="second"))
    assert _names(sessions) == {"default", "second"}


def test_write_takes_all_back_when_its_block_does_not(sessions: Sessions) -> None:
    def interrupted() -> None:
        with sessions.write() as session:
            session.add(Project(id="prj_2", name="second"))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert _names(sessions) == {"default"}


@pytest.mark.parametrize("name", ["default", None])
def test_an_error_tells_no_values(sessions: Sessions, name: str | None) -> None:
    """Neither parameters nor the row that Postgres tells of a name that is taken or missing."""
    with pytest.raises(IntegrityError) as told, sessions.write() as session:
        session.execute(insert(Project).values(id="prj_hunter2", name=name, max_bytes=31_337))
    said = f"{told.value} {told.value.orig}"
    assert "constraint" in said
    assert not [value for value in ("31337", "hunter2", "default") if value in said]


def test_a_value_that_makes_no_sense_is_not_repeated(postgres_url: str) -> None:
    sessions = Sessions(postgres_url)
    with pytest.raises(DataError) as told, sessions.read() as session:
        session.scalar(select(cast(literal("hunter2"), Integer)))
    sessions.close()
    assert "hunter2" not in f"{told.value} {told.value.orig}"


def test_what_is_changed_while_reading_is_thrown_away(sessions: Sessions) -> None:
    with sessions.read() as session:
        session.execute(update(Project).values(name="renamed"))
    assert _names(sessions) == {"default"}


def test_writers_queue_up_instead_of_failing(sessions: Sessions) -> None:
    def add(number: int) -> None:
        for step in range(10):
            with sessions.write() as session:
                session.scalars(select(Project)).all()  # a read first: SQLite could not upgrade such a lock
                session.add(Project(id=f"prj_{number}_{step}", name=f"{number} {step}"))

    threads = [threading.Thread(target=add, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_names(sessions)) == 61


def test_a_moment_comes_back_in_utc_to_the_microsecond(sessions: Sessions) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
    with sessions.write() as session:
        session.execute(update(Project).values(created_at=moment))
    with sessions.read() as session:
        read = session.scalar(select(Project.created_at))
    assert read == moment
    assert read is not None
    assert read.tzinfo is UTC


def test_a_moment_without_a_zone_is_refused(sessions: Sessions) -> None:
    with pytest.raises(StatementError, match="time zone"), sessions.write() as session:
        session.execute(update(Project).values(created_at=datetime(2026, 1, 2)))  # noqa: DTZ001


def test_the_databases_clock_moves_within_a_transaction_and_can_be_set_off(sessions: Sessions) -> None:
    with sessions.read() as session:
        first = session.scalar(select(db_now()))
        assert first is not None
        assert abs(first - now()) < timedelta(seconds=5)
        later = session.scalar(select(db_now(90.5)))
        assert later is not None
        assert timedelta(seconds=90.4) < later - first < timedelta(seconds=95)
        earlier = session.scalar(select(db_now(-60)))
        assert earlier is not None
        assert earlier < first
        while session.scalar(select(db_now())) == first:
            pass  # ends, for the clock is not the transaction's


def test_the_databases_clock_compares_with_stored_moments(sessions: Sessions) -> None:
    with sessions.write() as session:
        session.execute(update(Project).values(created_at=db_now(-1.5)))
    with sessions.read() as session:
        assert session.scalar(select(Project.id).where(Project.created_at < db_now(-1))) == "prj_default"
        assert session.scalar(select(Project.id).where(Project.created_at < db_now(-60))) is None
        assert session.scalar(select(literal(now(), UtcTime()) > db_now(-60)))


def _names(sessions: Sessions) -> set[str]:
    with sessions.read() as session:
        return set(session.scalars(select(Project.name)))


def test_a_line_to_a_host_that_is_gone_is_given_up(postgres_url: str) -> None:
    sessions = Sessions(f"{postgres_url}?keepalives_idle=7")
    with sessions.read() as session:
        line = session.connection().connection.dbapi_connection
        assert line is not None
        told = line.info.get_parameters()
    sessions.close()
    assert {name: told[name] for name in LINE} == {
        **{name: str(value) for name, value in LINE.items()},
        "keepalives_idle": "7",  # as the operator has it
    }


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        sessions = Sessions(f"postgresql+psycopg://postgres@{place}/none?connect_timeout=2")
        with pytest.raises(OUTAGES), sessions.read() as session:
            session.connection()
        sessions.close()
