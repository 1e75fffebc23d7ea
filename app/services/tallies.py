"""What has happened since the database was made, counted from the events as they leave the outbox.

Each event passes there once, in one process at a time, so nobody waits for a counter's row while a job's is
held; the counts outlive every process and are the same whoever reads them.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.tables import Event, Tally
from app.errors import Poison

BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, inf)
UNMEASURED = 0.0  # the bucket of what only happens
STORED = "stored"

Line = tuple[str, str, float | None]  # name, label, seconds


@dataclass
class Sum:
    """How often, and for how long together. buckets: counts by a bucket's upper end, each of its own."""

    count: int = 0
    seconds: float = 0.0
    buckets: Counter[float] = field(default_factory=Counter)


def add_events(session: Session, events: Iterable[Event]) -> None:
    add(session, (line for event in events for line in _told(event)))


def add(session: Session, lines: Iterable[Line]) -> None:
    for (name, label, bucket), (count, seconds) in sorted(_summed(lines).items()):
        row = {"name": name, "label": label, "bucket": bucket}
        if not _grow(session, row, count, seconds):
            with (
                suppress(IntegrityError),
                session.begin_nested(),
            ):  # another process may have made it just now
                session.add(Tally(**row))
            _grow(session, row, count, seconds)


def note_stored(session: Session, blobs: int, size: int) -> None:
    """How many blobs of how many bytes there were when somebody last looked."""
    session.merge(Tally(name=STORED, label="", bucket=UNMEASURED, count=blobs, total=float(size)))


def read(session: Session) -> dict[str, dict[str, Sum]]:
    """By name and label."""
    found: dict[str, dict[str, Sum]] = defaultdict(lambda: defaultdict(Sum))
    rows = session.execute(select(Tally.name, Tally.label, Tally.bucket, Tally.count, Tally.total))
    for name, label, bucket, count, seconds in rows:
        one = found[name][label]
        one.count += count
        one.seconds += seconds
        one.buckets[bucket] += count
    return found


def _grow(session: Session, row: dict[str, object], count: int, seconds: float) -> bool:
    """Whether the row is there."""
    more = update(Tally).filter_by(**row).values(count=Tally.count + count, total=Tally.total + seconds)
    grown = more.returning(Tally.count).execution_options(synchronize_session=False)
    return session.scalar(grown) is not None


def _summed(lines: Iterable[Line]) -> dict[tuple[str, str, float], tuple[int, float]]:
    found: dict[tuple[str, str, float], tuple[int, float]] = {}
    for name, label, seconds in lines:
        bucket = UNMEASURED if seconds is None else BUCKETS_S[bisect_left(BUCKETS_S, seconds)]
        count, total = found.get((name, label, bucket), (0, 0.0))
        found[name, label, bucket] = count + 1, total + (seconds or 0.0)
    return found


def _told(event: Event) -> Iterator[Line]:
    """What an event counts as. One that was written before a field came counts without it."""
    data = event.data
    match event.type:
        case "job.created":
            yield "jobs_created", "", None
        case "attempt.started":
            yield "attempts_started", "", None
        case "attempt.ended":
            yield "attempts_ended", data.get("cause", "ended"), None
        case "job.ended":
            yield "jobs_ended", data["status"], None
            if data.get("code") == Poison.code:
                yield "jobs_poisoned", "", None
        case "phase.ended" if "seconds" in data:
            yield "phase_seconds", event.phase or "", data["seconds"]
        case "checkpoint.saved":
            yield "checkpoint_seconds", "", data.get("seconds") or 0.0
