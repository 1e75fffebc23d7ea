"""Stored content that nothing refers to goes, slowly enough that nothing is ever missed.

A blob is condemned when no row names it, and goes when it has been so for a day and nobody stored it anew
meanwhile. Every column that can hold a sha256 counts, so that a new table is safe by existing; so does what a
kept checkpoint lists. Never in the way of a commit: one process does it, once an hour, in a thread beside.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from sqlalchemy import JSON, ColumnElement, String, Text, cast, delete, not_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.dialect import TERMINAL, db_now
from app.db.tables import Base, Chore, Condemned, Delivery, Import, Job, JobCheckpoint, Signals
from app.errors import NotFound
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.services import imported, tallies
from app.services.stumbling import survived
from app.settings import Settings

EVERY_S = 3_600.0
LOOK_S = 60.0
GRACE = timedelta(days=1)
# these name content and own none
TELLING = frozenset({"events", "deliveries", "condemned", "keys", "idempotency", "imports"})
HOP = "hop-"  # how the artifacts begin that list what a scheme has come to
_CHORE = "garbage"
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

log = structlog.get_logger()


class Collector(threading.Thread):
    """In every API process; a row says whose turn it is."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(name="garbage", daemon=True)
        self._parts, self._stopping = parts, threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            with survived("garbage collector"):
                with self._parts.sessions.write() as session:
                    mine = is_my_turn(session)
                if mine:
                    collect(self._parts)

    def stop(self) -> None:
        self._stopping.set()


def is_my_turn(session: Session) -> bool:
    """Whether nobody has collected for an hour; if so the next hour is this process's."""
    if session.get(Chore, _CHORE) is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(Chore(name=_CHORE))
    due = update(Chore).where(Chore.name == _CHORE, Chore.due_at <= db_now())
    taken = due.values(due_at=db_now(EVERY_S)).returning(Chore.name)
    return session.execute(taken.execution_options(synchronize_session=False)).first() is not None


def collect(parts: Parts) -> int:
    """Forgets what has been kept long enough, condemns, and removes what was condemned a day ago; how many
    blobs went."""
    with parts.sessions.write() as session:
        forget(session, parts.settings)
    with parts.sessions.read() as session:
        moment = session.scalars(select(db_now())).one()
        named = set(_named_by_rows(session))
        lists = _lists(session)
    for sha256 in lists:
        named.update(_named_in(parts.blobs, sha256))
    old = moment - GRACE
    spare, count, size = set(), 0, 0
    for one in parts.blobs.all():
        count, size = count + 1, size + one.size
        if one.sha256 not in named and one.put_at < old:
            spare.add(one.sha256)
    with parts.sessions.write() as session:
        doomed = _condemn(session, spare, old)
        tallies.note_stored(session, count, size)
    gone = sum(parts.blobs.remove(sha256, old) for sha256 in doomed)
    log.info("garbage collected", unreferenced=len(spare), removed=gone)
    return gone


def forget(session: Session, settings: Settings) -> None:
    """Rows whose time is over: teachers' answers, checkpoints of ended jobs, ended deliveries and imports."""
    session.execute(delete(Signals).where(Signals.created_at < db_now(-settings.keep_answers_s)))
    ended = select(Job.id).where(
        Job.status.in_(TERMINAL), Job.ended_at < db_now(-settings.keep_checkpoints_s)
    )
    session.execute(delete(JobCheckpoint).where(JobCheckpoint.job_id.in_(ended)))
    session.execute(delete(Delivery).where(Delivery.ended_at < db_now(-settings.keep_deliveries_s)))
    old = Import.ended_at < db_now(-settings.keep_imports_s)
    session.execute(delete(Import).where(old, not_(imported.is_name())))


def naming_columns() -> dict[tuple[str, str], ColumnElement[str]]:
    """Every column in which a digest may stand, by table and name."""
    return {
        (table.name, column.name): cast(column, Text)
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if table.name not in TELLING
        and (isinstance(column.type, JSON) or (isinstance(column.type, String) and column.type.length == 64))
    }


def digests_in(text: str) -> list[str]:
    return _DIGEST.findall(text)


def _named_by_rows(session: Session) -> Iterator[str]:
    for column in naming_columns().values():
        for text in session.scalars(select(column).execution_options(yield_per=500)):
            yield from digests_in(text or "")


def _lists(session: Session) -> list[str]:
    """The blobs that name others."""
    found = list(session.scalars(select(JobCheckpoint.manifest).distinct()))
    for artifacts in session.scalars(select(Job.artifacts).execution_options(yield_per=500)):
        found += [one["sha256"] for one in artifacts if one["name"].startswith(HOP)]
    return found


def _named_in(blobs: Blobs, sha256: str) -> list[str]:
    try:
        return digests_in(b"".join(blobs.read(sha256)).decode(errors="replace"))
    except NotFound:  # somebody will meet that, but not here
        return []


def _condemn(session: Session, spare: set[str], old: datetime) -> Sequence[str]:
    """Those that have been condemned since before `old`; they are acquitted, to be removed."""
    known = {row.sha256: row.since for row in session.scalars(select(Condemned))}
    doomed = [sha256 for sha256 in spare if sha256 in known and known[sha256] < old]
    for sha256 in known.keys() - (spare - set(doomed)):
        session.execute(delete(Condemned).where(Condemned.sha256 == sha256))
    session.add_all(Condemned(sha256=sha256) for sha256 in spare - known.keys())
    session.flush()
    return doomed
