"""How the service does as a whole, read from the rows: by index lookups, never by a walk over ended work.

Names, labels and references of projects stay out of it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.session import OUTAGES, Sessions
from app.db.tables import Delivery, Event, Import, Job, Outbox, Webhook, Worker
from app.services import tallies
from app.services.claims import QUEUED
from app.services.deliveries import PENDING, next_at
from app.services.tallies import Sum

LIVE = ("queued", "running", "paused")
ACCELERATORS = ("auto", "cpu", "cuda")
MOST_COUNTED = 10_000  # of what piles up while something is broken; more than that says no more


@dataclass(frozen=True)
class Line:
    """What waits, and for how long the oldest of it has."""

    count: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True)
class Operation:
    """queue: due jobs, by accelerator. running: by worker. workers: by how they are. happened: by name and
    label, since the database was made; `tallies` has the names."""

    jobs: Mapping[str, int]
    queue: Mapping[str, Line]
    running: Mapping[str, int]
    workers: Mapping[str, int]
    outbox: Line
    deliveries: Line
    imports: Mapping[str, int]
    happened: Mapping[str, Mapping[str, Sum]]


def look_if_there(sessions: Sessions) -> Operation | None:
    """None: the database does not answer."""
    try:
        with sessions.read() as session:
            return look(session)
    except OUTAGES:
        return None


def look(session: Session) -> Operation:
    now = session.scalars(select(db_now())).one()
    return Operation(
        jobs=_jobs(session),
        queue=_queue(session, now),
        running=_running(session),
        workers=_workers(session),
        outbox=_outbox(session, now),
        deliveries=_deliveries(session, now),
        imports=_imports(session),
        happened=tallies.read(session),
    )


def _jobs(session: Session) -> dict[str, int]:
    counted = session.execute(
        select(Job.status, func.count()).where(Job.status.in_(LIVE)).group_by(Job.status)
    )
    return dict.fromkeys(LIVE, 0) | {row[0]: row[1] for row in counted}


def _queue(session: Session, now: datetime) -> dict[str, Line]:
    due = select(Job.accelerator, func.count(), func.min(Job.available_at)).where(
        Job.status == QUEUED, Job.available_at <= now
    )
    lines = {
        row[0]: Line(row[1], _age_s(now, row[2])) for row in session.execute(due.group_by(Job.accelerator))
    }
    return dict.fromkeys(ACCELERATORS, Line()) | lines


def _running(session: Session) -> dict[str, int]:
    """An owner is a worker's id and, behind a slash, what of it has the job."""
    owners = session.scalars(select(Job.lease_owner).where(Job.status == "running"))
    return Counter((owner or "").partition("/")[0] for owner in owners)


def _workers(session: Session) -> dict[str, int]:
    state = case((Worker.expires_at <= db_now(), "lost"), (Worker.leaving, "leaving"), else_="ready")
    counted = session.execute(select(state, func.count()).group_by(state))
    return dict.fromkeys(("ready", "leaving", "lost"), 0) | {row[0]: row[1] for row in counted}


def _outbox(session: Session, now: datetime) -> Line:
    count = _count(session, select(Outbox.id))
    first = select(Outbox).order_by(Outbox.id).limit(1).subquery()
    of_first = (Event.job_id == first.c.job_id) & (Event.seq == first.c.seq)
    return Line(count, _age_s(now, session.scalar(select(Event.at).join(first, of_first))))


def _deliveries(session: Session, now: datetime) -> Line:
    """Those that are due; one that was refused waits on purpose."""
    due = select(Delivery.id).where(Delivery.status == PENDING, Delivery.available_at <= now)
    first = session.scalar(select(func.min(next_at)).select_from(Webhook))
    return Line(_count(session, due), _age_s(now, first))


def _imports(session: Session) -> dict[str, int]:
    states = ("queued", "running", "succeeded", "failed", "cancelled")
    return {state: _count(session, select(Import.id).where(Import.status == state)) for state in states}


def _count(session: Session, query: Any) -> int:
    some = query.limit(MOST_COUNTED).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def _age_s(now: datetime, since: datetime | None) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
