"""Where a teacher's stored answers are found again."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.tables import Signals
from app.ports.blobs import Blob


def find(session: Session, project_id: str, keys: list[str]) -> dict[str, Blob]:
    """The stored answers, by key, of those that are stored."""
    wanted = select(Signals).where(Signals.project_id == project_id, Signals.key.in_(keys))
    return {row.key: Blob(row.sha256, row.size) for row in session.scalars(wanted)}


def remember(session: Session, project_id: str, key: str, blob: Blob) -> None:
    """Who comes second finds the same answers stored already, and changes nothing."""
    try:
        with session.begin_nested():
            session.add(Signals(project_id=project_id, key=key, sha256=blob.sha256, size=blob.size))
    except IntegrityError:
        pass  # another job had the same teacher and data
