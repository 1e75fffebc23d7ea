"""Moving an alias, guarded by the revision that the client has seen."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.tables import Alias, Model
from app.errors import Fault, NotFound, UnknownReference, VersionConflict, shown
from app.services import models


@dataclass(frozen=True)
class Condition:
    """What the client expects: one of these revisions; that the alias exists, or not. None: anything."""

    revisions: frozenset[int] | None = None
    exists: bool | None = None


ANYTHING = Condition()


def set_alias(
    session: Session, project_id: str, name: str, alias: str, *, version: int, condition: Condition = ANYTHING
) -> Alias:
    """Points the alias at a version. Raises NotFound, UnknownReference, VersionConflict."""
    model = _lock(session, project_id, name)
    if not 1 <= version <= model.last_version:
        detail = f"The model {name} has {models.versions_of(model)}, not {shown(version)}."
        raise UnknownReference(
            detail, Fault("/version", "unknown_reference", detail, "Name a version that is there.")
        )
    _check(session.get(Alias, (model.id, alias), populate_existing=True), alias, condition)
    return models.point(session, model.id, alias, version)


def delete_alias(
    session: Session, project_id: str, name: str, alias: str, *, condition: Condition = ANYTHING
) -> Alias:
    """The alias as it stood. Its version stays. Raises NotFound, VersionConflict."""
    model = _lock(session, project_id, name)
    row = session.get(Alias, (model.id, alias), populate_existing=True)
    _check(row, alias, condition)
    if row is None:
        raise NotFound(f"The model {name} has no alias {shown(alias)}.")
    session.delete(row)
    session.flush()
    return row


def _lock(session: Session, project_id: str, name: str) -> Model:
    return models.lock(session, project_id, name) or models.get_model(session, project_id, name)


def _check(row: Alias | None, alias: str, condition: Condition) -> None:
    stands = f"it is at revision {row.revision}, on version {row.version}" if row else "it does not exist"
    unexpected = condition.revisions is not None and (row is None or row.revision not in condition.revisions)
    if unexpected or condition.exists not in (None, row is not None):
        raise VersionConflict(
            f"The alias {shown(alias)} is not as you expect: {stands}. Read it again, then decide."
        )
