"""What the service needs and does not reach."""

from sqlalchemy.exc import SQLAlchemyError

from app.db.migrate import is_current
from app.db.session import Sessions
from app.errors import Unavailable
from app.ports.blobs import Blobs

SILENT = "It does not answer."


def database_ailment(sessions: Sessions) -> str:
    """What keeps this process from its work; empty: nothing."""
    try:
        return "" if is_current(sessions.engine) else "Its schema is not the one of this version: migrate it."
    except SQLAlchemyError:
        return SILENT


def blobs_ailment(blobs: Blobs) -> str:
    """The same of the store."""
    try:
        blobs.check()
    except Unavailable:
        return SILENT
    return ""
