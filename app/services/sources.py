"""What an import is ordered with: where to fetch from, and the texts that an upload has beside its files.

`hf:ORG/REPO@REVISION` is a repository of the hub; without a revision its main branch is meant.
`s3://CONNECTION/KEY` is an object, or all that lies below a key, in a bucket that an operator has named.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.errors import Fault, Invalid
from app.ports.bucket import Bucket
from app.ports.hub import Hub
from app.ports.origin import Origin
from app.services import datasets, imports, picking
from app.settings import CONNECTION, Settings

Kind = Literal["model", "dataset"]

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"hf:(?P<repository>{_PART}/{_PART})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
_BUCKET = re.compile(rf"s3://(?P<connection>{CONNECTION})(/(?P<key>[^\x00-\x1f\x7f\\]{{0,1000}}))?")
_WAY = "send hf:ORG/REPO@REVISION, or s3://CONNECTION/KEY of a connection that an operator has named"


def _read(source: str) -> str:
    _parts(source)
    return source


Source = Annotated[
    str,
    StringConstraints(max_length=1200),
    AfterValidator(_read),
    Field(description="hf:ORG/REPO@REVISION, or s3://CONNECTION/KEY", examples=["hf:org/leaves@main"]),
]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=100)]


class ModelOrder(imports.Order):
    """A teacher to be fetched: the files of a checkpoint's folder, and nothing else that lies there."""

    source: Source


class DatasetOrder(datasets.Order):
    """Data to be fetched."""

    source: Source
    files: dict[picking.Field, Patterns] | None = Field(
        None,
        min_length=1,
        max_length=5,
        description='paths, with * and ? in them, by split or by `file`: {"train": ["data/train-*.csv"]}; '
        "left out: every file of the format that there is, by the splits that their names say",
    )


Order = ModelOrder | DatasetOrder


@dataclass(frozen=True)
class _Parts:
    """Of a source. connection: None for the hub's. key: of the bucket; revision None: the main branch."""

    connection: str | None = None
    key: str = ""
    repository: str = ""
    revision: str | None = None


def kind_of(order: Order) -> Kind:
    return "model" if isinstance(order, ModelOrder) else "dataset"


def check(settings: Settings, source: str) -> None:
    """Raises Invalid for a connection that there is none of."""
    name = _parts(source).connection
    if name is not None and name not in settings.connections:
        there = ", ".join(sorted(settings.connections))
        detail = f"there is no connection {name}"
        fix = f"name one of {there}" if there else "let an operator name one in STILLHOUSE_CONNECTIONS"
        raise Invalid(
            f"The source cannot be used: {detail}.", Fault("/source", "unknown_source", detail, fix)
        )


def open_source(settings: Settings, kind: Kind, source: str) -> Origin:
    """Raises Invalid and SourceForbidden."""
    check(settings, source)
    parts = _parts(source)
    if parts.connection is not None:
        return Bucket(settings, parts.connection, parts.key)
    return Hub(settings, kind, parts.repository, parts.revision)


def _parts(source: str) -> _Parts:
    """Raises ValueError."""
    hub, bucket = _HUB.fullmatch(source), _BUCKET.fullmatch(source)
    if hub and _leads_down(hub["revision"] or ""):
        return _Parts(repository=hub["repository"], revision=hub["revision"])
    if bucket and _leads_down((bucket["key"] or "").rstrip("/")):
        return _Parts(connection=bucket["connection"], key=bucket["key"] or "")
    raise ValueError(f"this is no source: {_WAY}")


def _leads_down(path: str) -> bool:
    """Whether every step of it is a name."""
    return not path or not any(part in ("", ".", "..") for part in path.split("/"))
