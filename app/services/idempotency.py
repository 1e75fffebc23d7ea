"""An Idempotency-Key: what one POST made is what every later POST with the same key and body is answered."""

from collections.abc import Callable

from sqlalchemy import Select, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Idempotency
from app.errors import IdempotencyKeyReused, QuotaExceeded, shown

KEPT_S = 86_400
MOST_FORGOTTEN = 100  # by one POST


def once(
    session: Session, project_id: str, key: str, digest: str, make: Callable[[], dict[str, str]]
) -> Idempotency:
    """What was made under this key in the last 24 hours, or now. digest: of the body.

    make: makes it and names it by its column, {"job_id": ...}. Raises IdempotencyKeyReused for another body,
    and what `make` raises.
    """
    _forget(session, project_id, key)
    if made := known(session, project_id, key, digest):
        return made
    try:
        with session.begin_nested():
            row = Idempotency(project_id=project_id, key=key, body_digest=digest, **make())
            session.add(row)
        return row
    except (IntegrityError, QuotaExceeded):  # the same key arrived twice at once, and the other one won
        if made := known(session, project_id, key, digest):
            return made
        raise


def known(session: Session, project_id: str, key: str, digest: str) -> Idempotency | None:
    """What was made under this key in the last 24 hours. Raises IdempotencyKeyReused for another body."""
    fresh = Idempotency.created_at >= db_now(-KEPT_S)
    named = select(Idempotency).where(Idempotency.project_id == project_id, Idempotency.key == key, fresh)
    row = session.scalar(named.execution_options(populate_existing=True))
    if row is not None and row.body_digest != digest:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {shown(key)} was used for another body. Send a new key with a new one."
        )
    return row


def _forget(session: Session, project_id: str, key: str) -> None:
    """This key, if it is old, and some of the oldest."""
    named = Idempotency.key.in_([key, *session.scalars(_oldest(project_id))])
    too_old = Idempotency.created_at < db_now(-KEPT_S)
    forgetting = delete(Idempotency).where(Idempotency.project_id == project_id, named, too_old)
    session.execute(forgetting, execution_options={"synchronize_session": False})


def _oldest(project_id: str) -> Select[str]:
    """Keys that are too old. The clock is asked apart, for Postgres looks nothing up in an index by what may
    change meanwhile."""
    limit = select(db_now(-KEPT_S)).scalar_subquery()
    return (
        select(Idempotency.key)
        .where(Idempotency.project_id == project_id, Idempotency.created_at < limit)
        .order_by(Idempotency.created_at)
        .limit(MOST_FORGOTTEN)
        .with_for_update(skip_locked=True)
    )
