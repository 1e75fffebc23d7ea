"""Importing a model: opened in the limited child, its files stored, then registered, in this order."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from app.catalog.base import Frozen, Input, parse
from app.catalog.spec import TASKS, AliasName, Name
from app.errors import InvalidData
from app.ports.parts import Parts
from app.services import intake, models
from app.services.models import Checkpoint, Entry

Json = dict[str, Any]

_FILE = re.compile(r"[A-Za-z0-9_.\-]{1,100}")


class Order(Frozen):
    """What comes with the file. None: what the file itself says."""

    name: Name
    alias: AliasName | None = None
    task: str | None = None
    labels: list[str] | None = None
    preprocessing: Json | None = None
    output: str | None = None
    output_kind: Literal["logits", "probabilities"] | None = None


@dataclass(frozen=True)
class Imported:
    """new: False when the same content was there already. warnings: what the user should know."""

    entry: Entry
    new: bool
    warnings: list[str]


class _Found(Frozen):
    """What the child found: all of a checkpoint but its files. The child read what a stranger sent."""

    format: str = Field(max_length=16)
    family: str = Field(max_length=64)
    task: str = Field(max_length=64)
    labels: list[str]
    input: Input
    preprocessing: Json
    gives: list[str]
    details: Json
    parameters: int = Field(ge=0, lt=2**63)
    warnings: list[str]


def take_in(parts: Parts, project_id: str, order: Order, file: Path, out: Path) -> Imported:
    """file: the upload. out: an empty folder for what comes out of it. Raises Invalid."""
    checkpoint, warnings = prepare(parts, order, file, out)
    with parts.sessions.write() as session:
        version, new = models.add(session, project_id, order.name, checkpoint, order.alias)
        return Imported(models.entry(session, version), new, warnings)


def prepare(
    parts: Parts, order: Order, file: Path, out: Path, source: str | None = None
) -> tuple[Checkpoint, list[str]]:
    """A checkpoint whose files are stored and which has no row yet, and its warnings. file: an upload, or the
    folder of a checkpoint. source: where it was fetched from. Raises Invalid."""
    fields = ("task", "labels", "preprocessing", "output", "output_kind")
    options = {field: getattr(order, field) for field in fields}
    found = parse(
        _Found, intake.run(parts.settings, "model", [file], options, out), "The upload cannot be used"
    )
    _check_files(found, out / "files")
    files = [_store(parts, path) for path in sorted((out / "files").iterdir())]
    content = found.model_dump(mode="json", exclude={"warnings"})
    lineage = {} if source is None else {"source": source}
    return Checkpoint(source="import", files=files, lineage=lineage, **content), found.warnings


def _check_files(found: _Found, folder: Path) -> None:
    """The preprocessing may name files that came with the upload, and no others that are stored."""
    task = TASKS[found.task](kind=found.task)
    for name, digest in task.files(task.parse_preprocessing(found.preprocessing)).items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or sha256(path.read_bytes()).hexdigest() != digest:
            raise InvalidData(f"The upload could not be taken in; its {name} is not the one that was read.")


def _store(parts: Parts, path: Path) -> Json:
    if path.is_symlink() or not path.is_file() or not _FILE.fullmatch(path.name):
        raise InvalidData("The upload could not be taken in; pack plain files only.")
    return {"path": path.name, **vars(parts.blobs.put_file(path))}
