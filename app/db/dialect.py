"""All that differs between SQLite and Postgres: the clock and the triggers."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Float, SQLColumnExpression, String, inspect, literal, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

TERMINAL = ("succeeded", "failed", "cancelled")
ENDED = ", ".join(f"'{status}'" for status in TERMINAL)  # in SQL
_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC moment; on SQLite a text of fixed width, so that text compares as time does."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(26) if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone cannot be stored")
        value = value.astimezone(UTC)
        return value.strftime(_SQLITE_FORMAT) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, str):
            return datetime.strptime(value, _SQLITE_FORMAT).replace(tzinfo=UTC)
        return None if value is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801  (it reads as the SQL function that it is)
    """The database's own clock, `offset_s` seconds from now; Postgres' now() is the transaction's start."""

    type = UtcTime()
    inherit_cache = True

    def __init__(self, offset_s: float | SQLColumnExpression[Any] | None = None) -> None:
        if isinstance(offset_s, int | float):
            offset_s = literal(offset_s, Float())
        super().__init__(*([] if offset_s is None else [offset_s]))


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: Any, **kw: Any) -> str:
    offset = f", {compiler.process(element.clauses, **kw)} || ' seconds'" if len(element.clauses) else ""
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{offset})"


@compiles(db_now, "postgresql")
def _postgres_now(element: db_now, compiler: Any, **kw: Any) -> str:
    if not len(element.clauses):
        return "clock_timestamp()"
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


def now() -> datetime:
    """This process's clock, for what is only shown; leases and order use `db_now`."""
    return datetime.now(UTC)


def create_triggers(connection: Connection) -> None:
    """Ended jobs, events and the audit log never change, and every event gets its row in the outbox. Each
    migration ends with this: batch mode drops SQLite's. Tables that come with a later migration are passed
    over.
    """
    dialect = connection.dialect.name
    statements = list(_TRIGGERS[dialect])
    for table, more in (("outbox", _OUTBOX_TRIGGERS), ("audit", _AUDIT_TRIGGERS)):
        if inspect(connection).has_table(table):
            statements += more[dialect]
    for statement in statements:
        connection.execute(text(statement))


_TRIGGERS = {
    "sqlite": [
        "DROP TRIGGER IF EXISTS jobs_terminal_immutable",
        f"CREATE TRIGGER jobs_terminal_immutable BEFORE UPDATE ON jobs WHEN OLD.status IN ({ENDED}) "
        "BEGIN SELECT RAISE(ABORT, 'a terminal job never changes'); END",
        "DROP TRIGGER IF EXISTS events_append_only",
        "CREATE TRIGGER events_append_only BEFORE UPDATE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% rows never change here', TG_TABLE_NAME; END $$",
        "DROP TRIGGER IF EXISTS jobs_terminal_immutable ON jobs",
        f"CREATE TRIGGER jobs_terminal_immutable BEFORE UPDATE ON jobs FOR EACH ROW "
        f"WHEN (OLD.status IN ({ENDED})) EXECUTE FUNCTION refuse_change()",
        "DROP TRIGGER IF EXISTS events_append_only ON events",
        "CREATE TRIGGER events_append_only BEFORE UPDATE ON events FOR EACH ROW "
        "EXECUTE FUNCTION refuse_change()",
    ],
}
_OUTBOX_TRIGGERS = {
    "sqlite": [
        "DROP TRIGGER IF EXISTS events_to_outbox",
        "CREATE TRIGGER events_to_outbox AFTER INSERT ON events "
        "BEGIN INSERT INTO outbox (job_id, seq) VALUES (NEW.job_id, NEW.seq); END",
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION hand_events_on() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO outbox (job_id, seq) SELECT job_id, seq FROM fresh ORDER BY job_id, seq; "
        "RETURN NULL; END $$",
        "DROP TRIGGER IF EXISTS events_to_outbox ON events",
        "CREATE TRIGGER events_to_outbox AFTER INSERT ON events REFERENCING NEW TABLE AS fresh "
        "FOR EACH STATEMENT EXECUTE FUNCTION hand_events_on()",
    ],
}
_AUDIT_TRIGGERS = {
    "sqlite": [
        "DROP TRIGGER IF EXISTS audit_append_only",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        "DROP TRIGGER IF EXISTS audit_keeps_all",
        "CREATE TRIGGER audit_keeps_all BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log keeps all'); END",
    ],
    "postgresql": [
        "DROP TRIGGER IF EXISTS audit_append_only ON audit",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit FOR EACH STATEMENT "
        "EXECUTE FUNCTION refuse_change()",
        "DROP TRIGGER IF EXISTS audit_keeps_all ON audit",
        "CREATE TRIGGER audit_keeps_all BEFORE DELETE OR TRUNCATE ON audit FOR EACH STATEMENT "
        "EXECUTE FUNCTION refuse_change()",
    ],
}
