"""How the service is: what it needs and does not reach, and how many jobs stand where."""

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.dialect import TERMINAL
from app.db.migrate import is_current
from app.db.session import Sessions
from app.db.tables import Job
from app.errors import Unavailable
from app.ports.blobs import Blobs


def ailments(sessions: Sessions, blobs: Blobs) -> dict[str, str]:
    """What keeps this process from its work, by part; empty: it is ready."""
    found = {"database": _database_ailment(sessions), "blobs": _blobs_ailment(blobs)}
    return {part: reason for part, reason in found.items() if reason}


def jobs_by_status(session: Session) -> dict[str, int]:
    """Over all projects; a status without jobs has 0."""
    counted = session.execute(select(Job.status, func.count()).group_by(Job.status))
    return dict.fromkeys(("queued", "running", "paused", *TERMINAL), 0) | {row[0]: row[1] for row in counted}


def _database_ailment(sessions: Sessions) -> str:
    try:
        return "" if is_current(sessions.engine) else "Its schema is not the one of this version: migrate it."
    except SQLAlchemyError:
        return "It does not answer."


def _blobs_ailment(blobs: Blobs) -> str:
    try:
        blobs.check()
    except Unavailable:
        return "It does not answer."
    return ""
