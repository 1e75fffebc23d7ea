"""What the service needs and does not reach."""

from sqlalchemy.exc import SQLAlchemyError

from app.db.migrate import is_current
from app.db.session import Sessions
from app.errors import Unavailable
from app.ports.blobs import Blobs


def ailments(sessions: Sessions, blobs: Blobs) -> dict[str, str]:
    """What keeps this process from its work, by part; empty: it is ready."""
    found = {"database": _database_ailment(sessions), "blobs": _blobs_ailment(blobs)}
    return {part: reason for part, reason in found.items() if reason}


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
