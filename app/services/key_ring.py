"""The keys of a project: made, listed and revoked by whoever has its scope `admin`.

To rotate a key, make a second one with the same scopes, hand it out, and revoke the first when its
`last_used_at` stands still. The bootstrap key stands in the settings alone, and is changed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import Key
from app.errors import Fault, Invalid, NotFound, StateConflict, shown
from app.services import keys
from app.services.access import Scope
from app.services.keys import BOOTSTRAP


@dataclass(frozen=True)
class Order:
    """A key to be. Without an end it lasts until it is revoked; at most one of the ends is given."""

    name: str
    scopes: Sequence[Scope]
    expires_at: datetime | None = None
    expires_in_s: float | None = None


def make(session: Session, project_id: str, order: Order, *, by: str | None) -> tuple[Key, str]:
    """The key's row, and the key itself, which nobody can read again. Raises Invalid."""
    if order.name == BOOTSTRAP:
        fault = Fault("/name", "reserved", "the name is that of the settings' own key", "Take another name.")
        raise Invalid(f"A key cannot be named {BOOTSTRAP!r}.", fault)
    key_id = new_id("key")
    key = keys.fresh(key_id)
    ends: ColumnElement[datetime] | datetime | None = order.expires_at
    if order.expires_in_s is not None:
        ends = db_now(order.expires_in_s)
    row = Key(
        id=key_id,
        project_id=project_id,
        name=order.name,
        digest=keys.digest(key),
        scopes=list(order.scopes),
        expires_at=ends,
        created_by=by,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    _check_end(session, row)
    return row, key


def list_(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[Key]:
    """Newest first, those that are over too."""
    query = select(Key).where(Key.project_id == project_id).order_by(Key.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Key.id < before)).all()


def get(session: Session, project_id: str, key_id: str) -> Key:
    """Raises NotFound."""
    row = session.scalar(select(Key).where(Key.id == key_id, Key.project_id == project_id))
    if row is None:
        raise NotFound(f"There is no key {shown(key_id)}.")
    return row


def revoke(session: Session, project_id: str, key_id: str) -> None:
    """From the commit on it lets nobody in. Raises NotFound, StateConflict."""
    row = get(session, project_id, key_id)
    if row.name == BOOTSTRAP and row.revoked_at is None:
        raise StateConflict(
            "This is the key of STILLHOUSE_BOOTSTRAP_KEY: put another there and start again, which ends it."
        )
    row.revoked_at = func.coalesce(Key.revoked_at, db_now())
    session.flush()


def _check_end(session: Session, row: Key) -> None:
    over = session.scalar(select(Key.expires_at <= db_now()).where(Key.id == row.id))
    if over:
        fault = Fault("/expires_at", "in_the_past", "it is over already", "Name a later moment.")
        raise Invalid("A key that ends in the past would let nobody in.", fault)
