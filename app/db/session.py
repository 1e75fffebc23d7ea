"""The engine, and the two ways to open a session: `read()` and `write()`."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    Connection,
    Engine,
    ExceptionContext,
    QueuePool,
    create_engine,
    event,
    exc,
    make_url,
)
from sqlalchemy.orm import Session

WAL_IS_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)  # older WAL can corrupt with several writers
BUSY_TIMEOUT_MS = 30_000
# More connections than threads answer requests. Errors are logged, and parameters are rows and secrets.
HOW: dict[str, Any] = {"pool_size": 16, "max_overflow": 32, "hide_parameters": True}
# A host that is gone says nothing: after so many seconds that is an error, unless the URL has other numbers.
LINE = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}

RETRY_S = 0.5
OUTAGES = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)  # when the database does not answer


class Sessions:
    """Opens sessions on one database. `write()` commits when its block ends well, else it rolls back.

    patience_s: how long a session waits for a database that is away before it opens.
    """

    patience_s = 0.0

    def __init__(self, url: str) -> None:
        self.engine = _sqlite_engine(url) if url.startswith("sqlite") else _postgres_engine(url)
        event.listen(self.engine, "handle_error", _leave_values_out)
        writing = self.engine.execution_options(stillhouse_write=True)
        self._read, self._write = self.engine, writing

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A snapshot to look at; what is changed in it is thrown away."""
        self._wait()
        with _Session(self._read, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction; on SQLite it takes the write lock at once, so that writers queue up."""
        self._wait()
        with _Session(self._write, expire_on_commit=False) as session, session.begin():
            yield session

    def in_use(self) -> int:
        """Connections that somebody works with now."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    def close(self) -> None:
        self.engine.dispose()

    def _wait(self) -> None:
        """Until the database answers. A connection that it has dropped is found out here, too."""
        until = time.monotonic() + self.patience_s
        while self.patience_s:
            try:
                with self._read.connect() as connection:
                    connection.exec_driver_sql("SELECT 1")
                return
            except OUTAGES:
                if time.monotonic() > until:
                    raise
            time.sleep(RETRY_S)


class _Session(Session):
    """Keeps what it has loaded, so that a row that was let go is not asked for again by its key."""


@event.listens_for(_Session, "loaded_as_persistent")
def _keep(session: Session, instance: object) -> None:
    session.info.setdefault("loaded", set()).add(instance)


def _postgres_engine(url: str) -> Engine:
    said = make_url(url).query
    return create_engine(
        url, connect_args={name: value for name, value in LINE.items() if name not in said}, **HOW
    )


def _sqlite_engine(url: str) -> Engine:
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **HOW)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _leave_values_out(context: ExceptionContext) -> None:
    """Of a refusal by Postgres its first line stays: its DETAIL is a row. Where a value makes no sense, the
    first line has it, too."""
    refused, told = context.original_exception, context.sqlalchemy_exception
    primary = getattr(getattr(refused, "diag", None), "message_primary", None)
    if primary is None or told is None:
        return
    said, of_a_value = str(refused), (getattr(refused, "sqlstate", None) or "").startswith("22")
    kept = "a value was refused" if of_a_value else primary
    refused.args = (kept,)
    told.args = (str(told.args[0]).replace(said, kept), *told.args[1:])


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver opens no transactions of its own: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA journal_mode={'WAL' if WAL_IS_SAFE else 'TRUNCATE'}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("stillhouse_write", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:  # waits for nobody, so nothing can go wrong; past SQLAlchemy's machinery it costs a fifth
        cast("sqlite3.Connection", connection.connection.dbapi_connection).execute("BEGIN")
