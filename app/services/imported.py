"""What was imported, found again by where it came from.

A job spec may say `hf:ORG/REPO@COMMIT` for what was imported from that commit. A branch or a tag may move,
and a job never fetches anything: then the answer is what to write, or how to import it.
"""

import re
from typing import Literal

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.tables import Dataset, Import, ModelVersion
from app.errors import Fault, UnknownReference, shown

MOST_LOOKED_AT = 50  # of one source, of which what they made may be deleted
HUB = "hf:"
_COMMIT = re.compile(r".*@[0-9a-f]{40}")


def identify(session: Session, project_id: str, kind: Literal["model", "dataset"], reference: str) -> str:
    """The id of what was imported last from the source. Raises UnknownReference, which says what to do."""
    if _COMMIT.fullmatch(reference):
        for one in session.scalars(made_of(project_id, kind, Import.pinned == reference)):
            if one.target_id is not None and target(session, one) is not None:
                return one.target_id
    elif made := session.scalar(made_of(project_id, kind, Import.source == reference).limit(1)):
        detail, known = "a branch or a tag may move, and a job needs what stays", made.result or {}
        way = f"Name {made.pinned}, or {known.get('reference')}, which was imported from it."
        raise _unknown(reference, detail, way)
    fix = f'Import it first: POST /v1/{kind}s with {{"name": ..., "source": "{reference[:150]}"}}.'
    raise _unknown(reference, "nothing was imported from it", fix)


def made_of(project_id: str, kind: str, source: ColumnElement[bool]) -> Select[Import]:
    """The imports from a source that succeeded, newest first."""
    named = Import.project_id == project_id, Import.kind == kind, Import.status == "succeeded"
    return select(Import).where(*named, source).order_by(Import.id.desc()).limit(MOST_LOOKED_AT)


def target(session: Session, one: Import) -> ModelVersion | Dataset | None:
    """What it made, if that is still there."""
    if one.kind == "model":
        return session.get(ModelVersion, one.target_id)
    return session.get(Dataset, one.target_id)


def is_name() -> ColumnElement[bool]:
    """Whether something that is there is found by this row: it is the newest that made it of these bytes."""
    version = select(ModelVersion.id).where(ModelVersion.id == Import.target_id)
    dataset = select(Dataset.id).where(Dataset.id == Import.target_id)
    newer = aliased(Import)
    same = (newer.pinned == Import.pinned, newer.digest == Import.digest, newer.target_id == Import.target_id)
    later = select(newer.id).where(newer.project_id == Import.project_id, *same, newer.id > Import.id)
    return or_(version.exists(), dataset.exists()) & ~later.exists()


def _unknown(reference: str, detail: str, fix: str) -> UnknownReference:
    fault = Fault("", "unknown_reference", detail, fix)
    return UnknownReference(f"{shown(reference)} points at nothing: {detail}.", fault)
