"""Imports as users see them: ordered, looked at, listed and cancelled."""

import json
from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import Import
from app.errors import NotFound, Overloaded, StateConflict, shown
from app.services import sources
from app.services.idempotency import once
from app.services.imported import made_of, target
from app.services.sources import Order
from app.settings import Settings

UNFINISHED = ("queued", "running")
MOST_UNFINISHED = 100  # of one project


def submit(
    session: Session, settings: Settings, project_id: str, order: Order, key: str | None = None
) -> Import:
    """A queued import, or the one that the same Idempotency-Key made in the last 24 hours.

    Raises Invalid for an unknown connection, IdempotencyKeyReused, and Overloaded when many are waiting.
    """
    sources.check(settings, order.source)
    kind, sent = sources.kind_of(order), order.model_dump(mode="json", exclude_unset=True)
    if key is None:
        return _insert(session, settings, project_id, order)
    body = sha256(json.dumps([kind, sent], sort_keys=True).encode()).hexdigest()
    made = once(
        session,
        project_id,
        key,
        body,
        lambda: {"import_id": _insert(session, settings, project_id, order).id},
    )
    return get(session, project_id, str(made.import_id))


def get(session: Session, project_id: str, import_id: str) -> Import:
    """Raises NotFound."""
    found = session.get(Import, import_id)
    if found is None or found.project_id != project_id:
        raise NotFound(f"There is no import {shown(import_id)}.")
    return found


def list_(
    session: Session, project_id: str, *, status: Sequence[str], before: str | None, limit: int
) -> list[Import]:
    """Newest first, from below the id `before`. status: of these alone; none: all."""
    page = select(Import).where(Import.project_id == project_id)
    if status:
        page = page.where(Import.status.in_(status))
    if before is not None:
        page = page.where(Import.id < before)
    return list(session.scalars(page.order_by(Import.id.desc()).limit(limit)))


def cancel(session: Session, project_id: str, import_id: str) -> Import:
    """Ends it at once; whoever carries it out finds out and stops. Raises NotFound, StateConflict."""
    ended = (
        update(Import)
        .where(Import.id == import_id, Import.project_id == project_id, Import.status.in_(UNFINISHED))
        .values(status="cancelled", ended_at=db_now(), lease_expires_at=None, version=Import.version + 1)
        .returning(Import.id)
        .execution_options(synchronize_session=False)
    )
    done = session.execute(ended).first() is not None
    found = get(session, project_id, import_id)
    session.refresh(found)
    if not done:
        raise StateConflict(f"Import {import_id} is {found.status}: it cannot be cancelled any more.")
    return found


def twin(session: Session, one: Import, pinned: str) -> Import | None:
    """An earlier import of the same content under the same name with the same texts, if what it made is still
    there."""
    same = made_of(one.project_id, one.kind, Import.pinned == pinned).where(Import.digest == one.digest)
    return next((row for row in session.scalars(same) if target(session, row) is not None), None)


def _insert(session: Session, settings: Settings, project_id: str, order: Order) -> Import:
    waiting = select(func.count()).where(Import.project_id == project_id, Import.status.in_(UNFINISHED))
    if (session.scalar(waiting) or 0) >= MOST_UNFINISHED:
        raise Overloaded(
            f"{MOST_UNFINISHED} imports of this project have not ended; wait, or cancel some.",
            retry_after_s=60,
        )
    made = Import(
        id=new_id("imp"),
        project_id=project_id,
        kind=sources.kind_of(order),
        name=order.name,
        source=order.source,
        texts=order.model_dump(mode="json", exclude_unset=True),
        digest=_digest(order),
        deadline_at=db_now(settings.max_import_s),
    )
    session.add(made)
    session.flush()
    session.refresh(made)
    return made


def _digest(order: Order) -> str:
    """Of all but where the bytes come from and which alias moves."""
    content = order.model_dump(mode="json", exclude={"source", "alias"})
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
