"""The migrations make exactly the tables that the code expects, on both databases, once and safely."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection, inspect, select, text
from sqlalchemy.orm import Session

from app.db.migrate import head, is_current, upgrade
from app.db.session import Sessions
from app.db.tables import Base, Job, Key, Project

TRIGGERS = {
    "jobs_terminal_immutable",
    "events_append_only",
    "events_to_outbox",
    "audit_append_only",
    "audit_keeps_all",
}


def test_the_migrated_schema_is_the_one_in_the_code(sessions: Sessions) -> None:
    with sessions.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_check_of_the_code_stands_in_the_database(sessions: Sessions) -> None:
    inspector = inspect(sessions.engine)
    for table in Base.metadata.sorted_tables:
        expected = {check.name for check in table.constraints if isinstance(check, CheckConstraint)}
        assert {check["name"] for check in inspector.get_check_constraints(table.name)} == expected


def test_the_triggers_are_there(sessions: Sessions) -> None:
    with sessions.engine.connect() as connection:
        assert _triggers(connection) == TRIGGERS


def test_a_migrated_database_is_current_and_upgrading_it_again_changes_nothing(
    sessions: Sessions, database_url: str
) -> None:
    assert is_current(sessions.engine)
    upgrade(database_url)
    assert is_current(sessions.engine)
    with sessions.engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM projects")).scalars().all() == ["prj_default"]


def test_an_empty_and_an_older_database_are_not_current(sessions: Sessions, tmp_path: Path) -> None:
    empty = Sessions(f"sqlite:///{tmp_path}/empty.db")
    assert not is_current(empty.engine)
    empty.close()
    with sessions.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert not is_current(sessions.engine)


def test_processes_that_start_at_once_migrate_once(sessions: Sessions, database_url: str) -> None:
    with sessions.write() as session:
        Base.metadata.drop_all(session.connection())
        session.execute(text("DROP TABLE alembic_version"))
    environment = os.environ | {"STILLHOUSE_DATABASE_URL": database_url}
    command = [sys.executable, "-m", "app.db.migrate"]
    racing = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in racing]
    assert [process.returncode for process in racing] == [0, 0]
    assert set(said) == {f"The database is at revision {head()}.\n".encode()}
    assert is_current(sessions.engine)


def test_the_revisions_stand_in_one_numbered_line() -> None:
    revisions = list(ScriptDirectory("migrations").walk_revisions())[::-1]
    assert [revision.revision for revision in revisions] == [f"{n:04}" for n in range(1, len(revisions) + 1)]
    assert revisions[-1].revision == head()


@pytest.mark.parametrize("name", ["a b", "100%"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    upgrade(f"sqlite:///{tmp_path / name}/stillhouse.db")


def _triggers(connection: Connection) -> set[str]:
    of_dialect = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
    }
    return set(connection.execute(text(of_dialect[connection.dialect.name])).scalars())


def test_keys_and_jobs_of_before_quotas_survive(sessions: Sessions, database_url: str) -> None:
    """A key could do everything, and an ended job's artifacts are weighed though its row never changes."""
    with sessions.write() as session:
        Base.metadata.drop_all(session.connection())
        session.execute(text("DROP TABLE alembic_version"))
    _upgrade_to("0005", sessions)
    moment = "2026-01-01 00:00:00.000000+00" if "postgres" in database_url else "2026-01-01 00:00:00.000000"
    with sessions.write() as session:
        _insert(session, "projects", id="prj_a", name="a", created_at=moment)
        _insert(session, "keys", id="key_a", project_id="prj_a", name="a", digest="0" * 64, created_at=moment)
        given = {"project_id": "prj_a", "status": "cancelled", "desired": "run", "version": 1, "last_seq": 0,
                 "artifacts": '[{"name": "a", "size": 3}, {"name": "b", "size": 4}]'}  # fmt: skip
        moments = dict.fromkeys(("available_at", "created_at", "ended_at"), moment)
        _insert(session, "jobs", id="job_a", **given, **moments)
    upgrade(database_url)
    with sessions.engine.connect() as connection:
        assert connection.execute(select(Key.scopes)).scalar_one() == ["read", "write", "predict", "admin"]
        assert connection.execute(select(Job.artifact_bytes)).scalar_one() == 7
        assert connection.execute(select(Project.max_bytes)).scalar_one() is None
        assert _triggers(connection) == TRIGGERS


def _upgrade_to(revision: str, sessions: Sessions) -> None:
    with sessions.engine.connect().execution_options(stillhouse_write=True) as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "migrations")
        with connection.begin():
            command.upgrade(config, revision)


def _insert(session: Session, table: str, **given: object) -> None:
    """A row; of columns that must be filled and are not given, the emptiest value."""
    columns = inspect(session.connection()).get_columns(table)
    for column in columns:
        if not column["nullable"] and column["name"] not in given:
            kind = column["type"].python_type
            given[column["name"]] = kind() if kind in (int, float, bool) else "{}"
    names = ", ".join(given)
    values = ", ".join(f":{name}" for name in given)
    session.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), given)
