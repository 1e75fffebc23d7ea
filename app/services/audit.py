"""Who did what: an entry for every write and for every denied request, which nothing changes afterwards.

An entry has the key's id, the method, the route and the path, never a body, a query or a key. A write is
answered after its entry is committed. Whoever is denied again and again could fill the disk: a process writes
at most DENIALS of those a minute and a project, and the log has them all.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.session import Sessions
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


class Scribe:
    """Writes deeds down. Those that come while others are being committed share the next transaction, so that
    many at once cost little more than one. Of one event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Deed, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, sessions: Sessions, deed: Deed) -> None:
        """Returns when it is committed; raises what kept it from that."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((deed, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(sessions))
        await written

    async def _write_all(self, sessions: Sessions) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._write_batch(sessions, batch)
        finally:
            self._writing = None

    async def _write_batch(
        self, sessions: Sessions, batch: Sequence[tuple[Deed, asyncio.Future[None]]]
    ) -> None:
        write = asyncio.to_thread(_write, sessions, [deed for deed, _ in batch])
        (error,) = await asyncio.gather(write, return_exceptions=True)
        for _, written in batch:
            if not written.done():  # who asked may have gone
                written.set_exception(error) if error else written.set_result(None)


def _write(sessions: Sessions, deeds: Sequence[Deed]) -> None:
    with sessions.write() as session:
        session.execute(insert(AuditEntry), list(map(_entry, deeds)))


def _entry(deed: Deed) -> dict[str, Any]:
    path = "".join(letter if letter.isprintable() else "?" for letter in deed.path)[:LONGEST]
    told = {name: value for name, value in vars(deed).items() if name != "path"}
    return {"id": new_id("aud"), "object": path, **told}


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
