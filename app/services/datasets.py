"""Datasets: names under which immutable versions stand, numbered from 1. Content is never doubled."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat
from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.catalog.spec import NAME, Name
from app.db.ids import new_id
from app.db.tables import Dataset, DatasetName, JobReference
from app.errors import Fault, InUse, Invalid, NotFound, UnknownReference, shown
from app.intake.profile import SPLITS, Profile, Split
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.services import imported, intake, quotas
from app.settings import Settings

ANY_SPLIT = (
    "file"  # the form field whose rows go to `train`, unless they are divided or say better themselves
)
_REFERENCE = re.compile(rf"(?:dataset:)?({NAME})(?:@([0-9]{{1,9}}))?(?:#([a-z0-9_-]{{1,32}}))?")


class UploadedFile(NamedTuple):
    """field: ANY_SPLIT or a split's name. name: what the client calls it."""

    field: str
    name: str
    path: Path


def _one_in_all(shares: dict[Split, float]) -> dict[Split, float]:
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError("the shares must sum to 1")
    return shares


class Order(Frozen):
    """What comes with the files. label: None: found by its name; empty: none. splits: shares of `file`."""

    name: Name
    label: str | None = Field(None, max_length=200)
    splits: Annotated[dict[Split, PositiveFloat], Field(min_length=1), AfterValidator(_one_in_all)] | None = (
        Field(None, description='each split\'s share, all shares together 1, as {"train": 0.8, "test": 0.2}')
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class StoredSplit(Frozen):
    """A split's canonical Parquet file among the blobs."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: NonNegativeInt
    rows: NonNegativeInt


class Prepared(Frozen):
    """A dataset whose files are stored and which has no row yet."""

    digest: str
    files: dict[Split, StoredSplit]
    profile: Profile


def take_in(
    parts: Parts, project_id: str, order: Order, files: Sequence[UploadedFile], out: Path
) -> tuple[Dataset, bool]:
    """Opens the files in the limited child, stores what it made, then makes the row; whether it is new.

    out: an empty folder. Raises Invalid and its children.
    """
    prepared = prepare(parts.settings, parts.blobs, order, files, out)
    with parts.sessions.write() as session:
        return create(session, project_id, order.name, prepared)


def prepare(
    settings: Settings, blobs: Blobs, order: Order, files: Sequence[UploadedFile], out: Path
) -> Prepared:
    """Raises Invalid and its children."""
    _check_fields(order, files)
    options = {
        "files": [{"field": file.field, "split": _split(file.field), "name": file.name} for file in files],
        "label": order.label,
        "divide": order.splits,
        "seed": order.seed,
    }
    profile = Profile.model_validate(
        intake.run(settings, "dataset", [file.path for file in files], options, out)
    )
    stored = {split: _store(blobs, out, split, found.rows) for split, found in profile.splits.items()}
    content = {"label": profile.label, "files": {split: file.sha256 for split, file in stored.items()}}
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Prepared(digest=digest, files=stored, profile=profile)


def create(
    session: Session, project_id: str, name: str, prepared: Prepared, source: str | None = None
) -> tuple[Dataset, bool]:
    """The name's next version, or the one that has this content already; whether it is new. source: where it
    was fetched from."""
    counter = _counter(session, project_id, name)
    if known := session.scalar(_named(project_id, name).where(Dataset.digest == prepared.digest)):
        return known, False
    size = sum(file.size for file in prepared.files.values())
    quotas.admit_bytes(session, project_id, size)
    counter.last_version += 1
    dataset = Dataset(
        id=new_id("ds"),
        project_id=project_id,
        name=name,
        version=counter.last_version,
        digest=prepared.digest,
        rows=sum(file.rows for file in prepared.files.values()),
        size=size,
        files={split: file.model_dump() for split, file in prepared.files.items()},
        profile=prepared.profile.model_dump(mode="json"),
        source=source,
    )
    session.add(dataset)
    session.flush()
    return dataset, True


def _counter(session: Session, project_id: str, name: str) -> DatasetName:
    """The name's counter, made when it is missing, held against other uploads until the transaction ends."""
    counter = session.get(DatasetName, (project_id, name), with_for_update=True)
    if counter is None:
        with suppress(IntegrityError), session.begin_nested():  # another upload may make it meanwhile
            session.add(DatasetName(project_id=project_id, name=name))
        counter = session.get_one(DatasetName, (project_id, name), with_for_update=True)
    return counter


# ---- reading


def find(session: Session, project_id: str, reference: str) -> tuple[Dataset, str]:
    """The version and the split that `dataset:NAME[@VERSION][#SPLIT]` points at.

    Without a version the newest; without a split the only one, or `train`. `hf:ORG/REPO@COMMIT[#SPLIT]` is
    what was imported from there. On Postgres the row is held against deletion until the transaction ends.
    Raises UnknownReference, which says what there is.
    """
    if reference.startswith(imported.HUB):
        source, _, split = reference.partition("#")
        dataset = _imported(session, project_id, source)
    else:
        dataset, split = _of_name(session, project_id, reference)
    split = split or (next(iter(dataset.files)) if len(dataset.files) == 1 else "train")
    if split not in dataset.files:
        raise _unknown(reference, _its_splits(dataset), "name one of them after #")
    return dataset, split


def _of_name(session: Session, project_id: str, reference: str) -> tuple[Dataset, str]:
    """And the split that is named; empty: none."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise _unknown(reference, "it is not of the form dataset:NAME[@VERSION][#SPLIT]", "write it so")
    name, version, split = match.groups()
    query = _named(project_id, name).with_for_update(read=True, key_share=True)
    dataset = session.scalar(query.where(Dataset.version == int(version)) if version else query.limit(1))
    if dataset is None:
        there = _what_there_is(session, project_id, name)
        raise _unknown(reference, there, "upload it with POST /v1/datasets, or name one that is there")
    return dataset, split or ""


def _imported(session: Session, project_id: str, source: str) -> Dataset:
    dataset_id = imported.identify(session, project_id, "dataset", source)
    held = select(Dataset).where(Dataset.id == dataset_id).with_for_update(read=True, key_share=True)
    return session.scalars(held).one()


def get(session: Session, project_id: str, name: str, version: int) -> Dataset:
    """Raises NotFound, which says what there is."""
    dataset = session.scalar(_named(project_id, name).where(Dataset.version == version))
    if dataset is None:
        raise _no_version(session, project_id, name, version)
    return dataset


def file_of(dataset: Dataset, split: Split | None) -> dict[str, Any]:
    """{sha256, size, rows} of the split; None: of the first there is. Raises NotFound."""
    split = split or next(one for one in SPLITS if one in dataset.files)
    if split not in dataset.files:
        raise NotFound(f"There is no split {split}: {_its_splits(dataset)}.")
    found: dict[str, Any] = dataset.files[split]
    return found


def versions(
    session: Session, project_id: str, name: str, before: int | None, limit: int
) -> Sequence[Dataset]:
    """Newest first, below the version `before`. Raises NotFound where the name has none at all."""
    query = _named(project_id, name).limit(limit)
    found = session.scalars(query if before is None else query.where(Dataset.version < before)).all()
    if not found and before is None:
        raise NotFound(f"There is no dataset {shown(name)}: {_what_there_is(session, project_id, name)}.")
    return found


def list_(session: Session, project_id: str, after: str | None, limit: int) -> Sequence[Dataset]:
    """The newest version of every name behind `after`, by name."""
    newest = (
        select(Dataset.name, func.max(Dataset.version).label("version"))
        .where(Dataset.project_id == project_id, Dataset.name > (after or ""))
        .group_by(Dataset.name)
        .order_by(Dataset.name)
        .limit(limit)
        .subquery()
    )
    query = (
        select(Dataset)
        .join(newest, (Dataset.name == newest.c.name) & (Dataset.version == newest.c.version))
        .where(Dataset.project_id == project_id)
        .order_by(Dataset.name)
    )
    return session.scalars(query).all()


def delete(session: Session, project_id: str, name: str, version: int) -> None:
    """Forgets a version; its files are swept later. Raises NotFound, and InUse while a job points at it."""
    held = _named(project_id, name).where(Dataset.version == version).with_for_update()
    dataset = session.scalar(held)  # whoever is about to point at it has done so by now, or finds it gone
    if dataset is None:
        raise _no_version(session, project_id, name, version)
    jobs = session.scalars(
        select(JobReference.job_id)
        .where(JobReference.target_id == dataset.id)
        .distinct()
        .order_by(JobReference.job_id)
        .limit(6)
    ).all()
    if jobs:
        more = " and more" if len(jobs) > 5 else ""
        reason = f"{', '.join(jobs[:5])}{more} used it"
        fault = Fault("", "in_use", reason, "delete these jobs first")
        raise InUse(f"Version {version} of dataset {name} stays: {reason}.", fault)
    session.delete(dataset)
    session.flush()


def _named(project_id: str, name: str) -> Select[Dataset]:
    newest_first = Dataset.version.desc()
    return (
        select(Dataset).where(Dataset.project_id == project_id, Dataset.name == name).order_by(newest_first)
    )


def _no_version(session: Session, project_id: str, name: str, version: int) -> NotFound:
    there = _what_there_is(session, project_id, name)
    return NotFound(f"There is no version {version} of dataset {shown(name)}: {there}.")


def _its_splits(dataset: Dataset) -> str:
    splits = ", ".join(split for split in SPLITS if split in dataset.files)
    return f"version {dataset.version} of {dataset.name} has the splits {splits}"


def _what_there_is(session: Session, project_id: str, name: str) -> str:
    mine = Dataset.project_id == project_id
    numbers = session.scalars(
        select(Dataset.version).where(mine, Dataset.name == name).order_by(Dataset.version.desc()).limit(10)
    ).all()
    if numbers:
        return f"{name} has the versions {', '.join(map(str, reversed(numbers)))}"
    names = session.scalars(
        select(Dataset.name).where(mine).distinct().order_by(Dataset.name).limit(10)
    ).all()
    return f"there are the datasets {', '.join(names)}" if names else "there are no datasets yet"


def _unknown(reference: str, reason: str, fix: str) -> UnknownReference:
    return UnknownReference(
        f"{shown(reference)} points at nothing: {reason}.", Fault("", "unknown_reference", reason, fix)
    )


# ---- uploading


def _check_fields(order: Order, files: Sequence[UploadedFile]) -> None:
    fields = {file.field for file in files}
    names = ", ".join(SPLITS)
    if not fields:
        fix = f"add -F file=@data.parquet, or one file for each of {names}"
        raise Invalid("The form holds no file.", Fault("/file", "missing", "there is no file", fix))
    if ANY_SPLIT in fields and len(fields) > 1:
        fix = f"send `file` alone, or one file for each of {names}"
        raise Invalid(
            f"The form holds `file` beside named splits; {fix}.",
            Fault("/file", "ambiguous", "both came", fix),
        )
    if order.splits and (fields != {ANY_SPLIT} or len(files) > 1):
        reason = "`splits` divides one `file`, and more came"
        raise Invalid(
            f"{reason}.", Fault("/splits", "ambiguous", reason, "send one `file`, or leave `splits` out")
        )


def _split(field: str) -> str:
    return "train" if field == ANY_SPLIT else field


def _store(blobs: Blobs, out: Path, split: Split, rows: int) -> StoredSplit:
    path = out / f"{split}.parquet"
    assert path.is_file()
    assert not path.is_symlink()
    blob = blobs.put_file(path)
    return StoredSplit(sha256=blob.sha256, size=blob.size, rows=rows)
