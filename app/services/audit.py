"""Who did what: an entry for every write and for every denied request, which nothing changes afterwards.

An entry has the key's id, the method, the route and the path, never a body, a query or a key. A write is
answered after its entry is committed. Whoever is denied again and again could fill the disk: a process writes
at most DENIALS of those a minute and a project, and the log has them all.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.tables import AuditEntry

DENIED = frozenset({401, 403, 429})
DENIALS = 120
LONGEST = 500


@dataclass(frozen=True)
class Deed:
    """What was asked and how it ended. path: what it was done to; of something made, its own."""

    project_id: str | None
    key_id: str | None
    method: str
    route: str
    path: str
    status: int
    code: str | None
    request_id: str


@dataclass(frozen=True)
class Filters:
    """project_id: None means all, and those whom nobody knows. until: not included."""

    project_id: str | None
    key_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class DenialGauge:
    """Whether another denial may be written in this minute, so that no project and no stranger can keep those
    of others out of the log. Of one process."""

    def __init__(self) -> None:
        self._lock, self._minute, self._written = threading.Lock(), 0, Counter[str | None]()

    def passes(self, project_id: str | None) -> bool:
        """project_id: None: nobody that is known."""
        with self._lock:
            minute = int(time.monotonic() // 60)
            if minute != self._minute:
                self._minute, self._written = minute, Counter()
            self._written[project_id] += 1
            return self._written[project_id] <= DENIALS


def write(session: Session, deed: Deed) -> None:
    path = "".join(letter if letter.isprintable() else "?" for letter in deed.path)[:LONGEST]
    session.add(
        AuditEntry(
            id=new_id("aud"),
            project_id=deed.project_id,
            key_id=deed.key_id,
            method=deed.method,
            route=deed.route,
            object=path,
            status=deed.status,
            code=deed.code,
            request_id=deed.request_id,
        )
    )
    session.flush()


def list_(session: Session, filters: Filters, *, before: str | None, limit: int) -> Sequence[AuditEntry]:
    """Newest first."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if filters.project_id is not None:
        query = query.where(AuditEntry.project_id == filters.project_id)
    if filters.key_id is not None:
        query = query.where(AuditEntry.key_id == filters.key_id)
    if filters.since is not None:
        query = query.where(AuditEntry.at >= filters.since)
    if filters.until is not None:
        query = query.where(AuditEntry.at < filters.until)
    return session.scalars(query if before is None else query.where(AuditEntry.id < before)).all()
