"""An import's way: claimed, kept, and ended, each by one guarded UPDATE.

Who carries it out holds a lease; past it anybody may go on, as the next attempt. Whoever is not the newest
attempt any more is told so by LeaseLost and writes nothing. `tries` counts the attempts since bytes came
last, so that a source that is slow is not given up, and one that gives nothing is.
"""

from typing import Any

from sqlalchemy import ColumnElement, case, exists, or_, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Import
from app.errors import LeaseLost, Poison, SourceAway, StillhouseError
from app.services import outbox
from app.services.import_orders import UNFINISHED
from app.services.webhooks import Told

MAX_TRIES = 6

Json = dict[str, Any]


def due(session: Session) -> bool:
    """Whether there is any to be claimed or buried."""
    unfinished = Import.status.in_(UNFINISHED)
    return bool(session.scalar(select(exists().where(unfinished, or_(_free(), *_hopeless())))))


def claim(session: Session, lease_s: float) -> Import | None:
    """The oldest that waits, or whose worker fell silent; None: there is none."""
    wanted = (_free(), Import.tries < MAX_TRIES, Import.deadline_at > db_now())
    candidate = (
        select(Import.id)
        .where(*wanted)
        .order_by(Import.available_at, Import.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return session.scalar(
        update(Import)
        .where(Import.id == candidate, *wanted)
        .values(
            status="running",
            attempt=Import.attempt + 1,
            tries=Import.tries + 1,
            version=Import.version + 1,
            lease_expires_at=db_now(lease_s),
        )
        .returning(Import)
        .execution_options(synchronize_session=False)
    )


def bury(session: Session) -> list[str]:
    """Ends those that took too long, and those of which every attempt died; their ids."""
    late, dead = _hopeless()
    poison = Poison("Every attempt at the import died before it came further.")
    return [
        *_fail_all(session, late, error=_TOO_LATE),
        *_fail_all(session, dead, error=poison.body()),
    ]


def renew(session: Session, import_id: str, attempt: int, lease_s: float, came: int) -> bool:
    """Whether it goes on; one whose time is over ends here. came: bytes that are here. Raises LeaseLost."""
    mine = (Import.id == import_id, Import.attempt == attempt, Import.status == "running")
    if _fail_all(session, *mine, Import.deadline_at <= db_now(), error=_TOO_LATE):
        return False
    further = Import.bytes < came
    _change(
        session,
        import_id,
        attempt,
        lease_expires_at=db_now(lease_s),
        tries=case((further, 0), else_=Import.tries),
        version=case((Import.bytes != came, Import.version + 1), else_=Import.version),
        bytes=came,
    )
    return True


def settle(
    session: Session, import_id: str, attempt: int, *, pinned: str, files: list[Json], total: int
) -> None:
    """What the source means from now on. total: bytes. Raises LeaseLost."""
    _change(session, import_id, attempt, pinned=pinned, files=files, total_bytes=total, **_MOVED)


def release(session: Session, import_id: str, attempt: int, error: StillhouseError, wait_s: float) -> bool:
    """Back in the queue, or failed when it was tried often enough; whether it will be tried again.

    Raises LeaseLost.
    """
    row = _change(
        session,
        import_id,
        attempt,
        status="queued",
        available_at=db_now(wait_s),
        lease_expires_at=None,
        **_MOVED,
    )
    if row.tries < MAX_TRIES:
        return True
    return not _fail_all(session, Import.id == import_id, Import.attempt == attempt, error=error.body())


def hand_back(session: Session, import_id: str, attempt: int, wait_s: float = 0.0) -> None:
    """Back in the queue, for this worker leaves or lacks what is our own; it counts as no try.

    Raises LeaseLost.
    """
    tries = case((Import.tries > 0, Import.tries - 1), else_=0)
    back: Json = {"status": "queued", "lease_expires_at": None, "available_at": db_now(wait_s)}
    _change(session, import_id, attempt, tries=tries, **back, **_MOVED)


def fail(session: Session, import_id: str, attempt: int, error: StillhouseError) -> None:
    """Raises LeaseLost."""
    _tell(session, _change(session, import_id, attempt, status="failed", error=error.body(), **_ENDED))


def succeed(session: Session, import_id: str, attempt: int, target_id: str, result: Json) -> None:
    """In the transaction in which its target is made. Raises LeaseLost."""
    made: Json = {"status": "succeeded", "target_id": target_id, "result": result}
    _tell(session, _change(session, import_id, attempt, **made, **_ENDED))


def _free() -> ColumnElement[bool]:
    return or_((Import.status == "queued") & (Import.available_at <= db_now()), _silent())


def _hopeless() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Past its time; and tried too often."""
    resting = or_(Import.status == "queued", _silent())
    return resting & (Import.deadline_at <= db_now()), _silent() & (Import.tries >= MAX_TRIES)


def _silent() -> ColumnElement[bool]:
    return (Import.status == "running") & (Import.lease_expires_at <= db_now())


_TOO_LATE = SourceAway("The import was not done within the time that one may take.").body()
_MOVED: Json = {"version": Import.version + 1}
_ENDED: Json = {**_MOVED, "ended_at": db_now(), "lease_expires_at": None}


def _change(session: Session, import_id: str, attempt: int, **values: Any) -> Import:
    row = session.scalar(
        update(Import)
        .where(Import.id == import_id, Import.attempt == attempt, Import.status == "running")
        .values(**values)
        .returning(Import)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if row is None:
        raise LeaseLost("Somebody else carries out this import, or it was cancelled.")
    return row


def _fail_all(session: Session, *which: ColumnElement[bool], error: Json) -> list[str]:
    ended = (
        update(Import)
        .where(Import.status.in_(UNFINISHED), *which)
        .values(status="failed", error=error, **_ENDED)
        .returning(Import)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    rows = session.scalars(ended).all()
    for row in rows:
        _tell(session, row)
    return [row.id for row in rows]


def _tell(session: Session, ended: Import) -> None:
    """Who cancels one knows."""
    told = {name: getattr(ended, name) for name in ("kind", "name", "source", "pinned", "error")}
    reference = (ended.result or {}).get("reference")
    end: Told = "import.succeeded" if ended.status == "succeeded" else "import.failed"
    outbox.tell(session, ended.project_id, end, {"import_id": ended.id, **told, "reference": reference})
