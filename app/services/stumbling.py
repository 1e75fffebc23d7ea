"""What threads that go on for ever make of what went wrong: they tell it, and go on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.db.session import OUTAGES

EVERY_S = 30.0  # of an outage one line, of all else each with its stack

log = structlog.get_logger()
_told: dict[str, float] = {}


@contextmanager
def survived(who: str, **about: object) -> Iterator[None]:
    """Lets nothing out but what ends a process."""
    try:
        yield
    except OUTAGES:
        if time.monotonic() - _told.get(who, -EVERY_S) >= EVERY_S:
            _told[who] = time.monotonic()
            log.warning("the database does not answer, and is asked again and again", who=who)
    except Exception:
        log.exception("something went wrong, and work goes on", who=who, **about)
