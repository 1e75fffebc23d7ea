"""Which blobs the rows need, and whether they are there and sound; how they come into a backup and back.

The database is saved first and the blobs after it: a blob is never overwritten, and goes a day at the
earliest after the last row that named it, so whatever the saved rows name is still there to be copied.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import AttemptLog, Dataset, Job, JobCheckpoint, ModelVersion, Signals
from app.errors import NotFound
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.services.garbage import HOP


@dataclass(frozen=True)
class Trouble:
    """A blob that a row needs. named_by: an id of that row, or of its job."""

    sha256: str
    what: Literal["missing", "damaged"]
    named_by: str


def check(parts: Parts) -> Iterator[Trouble | None]:
    """Reads every blob that a row names; None for each that is sound."""
    with parts.sessions.read() as session:
        named, lists = dict(_named(session)), dict(_lists(session))
    named |= lists
    for sha256, owner in lists.items():
        named |= dict.fromkeys(_listed(parts.blobs, sha256), owner)
    for sha256, owner in named.items():
        what = ail(parts.blobs, sha256)
        yield None if what is None else Trouble(sha256, what, owner)


def ail(blobs: Blobs, sha256: str) -> Literal["missing", "damaged"] | None:
    """What is wrong with a blob; None: nothing is."""
    digest = hashlib.sha256()
    try:
        for chunk in blobs.read(sha256):
            digest.update(chunk)
    except NotFound:
        return "missing"
    return None if digest.hexdigest() == sha256 else "damaged"


def copy_new(source: Blobs, target: Blobs) -> tuple[int, list[str]]:
    """Copies what the target lacks; how many, and which were not copied, for the source has them damaged."""
    known = {one.sha256 for one in target.all()}
    count, damaged = 0, []
    for one in source.all():
        if one.sha256 in known:
            continue
        if ail(source, one.sha256) is not None:
            damaged.append(one.sha256)
        else:
            target.put(source.read(one.sha256))
            count += 1
    return count, damaged


def put_back(source: Blobs, target: Blobs) -> tuple[int, list[str]]:
    """Copies what the target lacks or has damaged; how many, and the digests of those damaged in the source,
    which stay as they are."""
    wanted = [one.sha256 for one in source.all() if ail(target, one.sha256) is not None]
    damaged = [sha256 for sha256 in wanted if ail(source, sha256) is not None]
    for sha256 in wanted:
        if sha256 not in damaged:
            target.put(source.read(sha256))
    return len(wanted) - len(damaged), damaged


def _named(session: Session) -> Iterator[tuple[str, str]]:
    """(sha256, id of what names it)."""
    for column, owner in (
        (Dataset.files, Dataset.id),
        (ModelVersion.files, ModelVersion.id),
        (Job.artifacts, Job.id),
    ):
        for value, row_id in session.execute(select(column, owner).execution_options(yield_per=500)):
            yield from ((sha256, row_id) for sha256 in _digests(value))
    for named in (
        select(Job.result_manifest, Job.id).where(Job.result_manifest.is_not(None)),
        select(AttemptLog.sha256, AttemptLog.job_id),
        select(Signals.sha256, Signals.project_id),
    ):
        yield from ((str(row[0]), row[1]) for row in session.execute(named))


def _lists(session: Session) -> Iterator[tuple[str, str]]:
    """The same of blobs that name others."""
    for manifest, job_id in session.execute(select(JobCheckpoint.manifest, JobCheckpoint.job_id)):
        yield manifest, job_id
    for artifacts, job_id in session.execute(select(Job.artifacts, Job.id)):
        yield from ((one["sha256"], job_id) for one in artifacts if one["name"].startswith(HOP))


def _listed(blobs: Blobs, sha256: str) -> list[str]:
    try:
        return list(_digests(json.loads(b"".join(blobs.read(sha256)))))
    except (NotFound, ValueError):  # it is told as missing or damaged itself
        return []


def _digests(value: Any) -> Iterator[str]:
    """What names a blob in a row's JSON, in a checkpoint's manifest or in what a scheme has come to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("sha256", "state") and isinstance(inner, str):
                yield inner
            else:
                yield from _digests(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests(inner)
