"""Brings a database to the newest schema; `python -m app.db.migrate` does it for the configured one.

Revisions are files `migrations/versions/NNNN_what.py` in one line without branches, each named by its number.
"""

import argparse
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, make_url, text

from app.commands import ended
from app.db.session import Sessions
from app.errors import Misconfigured
from app.settings import Settings

NOT_CURRENT = "The database does not have this version's schema: run `make migrate` first."
_LOCK = 5_717_113  # any number of our own: whoever holds it on Postgres is migrating


def upgrade(url: str, revision: str = "head") -> None:
    """In one transaction, one process at a time; a database that is there already stays as it is."""
    sessions = Sessions(url)
    try:
        with sessions.engine.connect().execution_options(stillhouse_write=True) as connection:
            if connection.dialect.name == "sqlite":
                _without_foreign_keys(connection)
            with connection.begin():
                _upgrade(connection, revision)
    finally:
        sessions.close()


def is_current(engine: Engine) -> bool:
    """Whether the database stands at the newest revision."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [head()]


def check_is_there(url: str) -> None:
    """Raises Misconfigured when there is no database, or one of another version. Makes none."""
    file = make_url(url).database if url.startswith("sqlite") else None
    if file is not None and not Path(file).exists():
        raise Misconfigured("There is no database at the path in STILLHOUSE_DATABASE_URL.")
    sessions = Sessions(url)
    try:
        if not is_current(sessions.engine):
            raise Misconfigured(NOT_CURRENT)
    finally:
        sessions.close()


@cache
def head() -> str:
    """The newest revision."""
    return max(path.name.partition("_")[0] for path in (_folder() / "versions").glob("[0-9]*_*.py"))


def _folder() -> Path:
    spec = find_spec("migrations")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _without_foreign_keys(connection: Connection) -> None:
    """Batch mode copies a table and drops the old one, which would delete its children by cascade.

    Only possible outside a transaction; the connection is thrown away afterwards.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys=OFF")


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    command.upgrade(config, revision)
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise RuntimeError("a migration would leave rows that point at nothing; nothing was changed")


def _main() -> int:
    upgrade(Settings().database_url)
    print(f"The database is at revision {head()}.")
    return 0


if __name__ == "__main__":
    about = "Brings the database of STILLHOUSE_DATABASE_URL to this version's schema, with all that is in it."
    argparse.ArgumentParser(prog="python -m app.db.migrate", description=about).parse_args()
    sys.exit(ended(_main))
