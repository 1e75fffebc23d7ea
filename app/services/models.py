"""The registry of models: names, immutable versions numbered from 1 without a gap, and aliases that move.

A version is what its manifest says: the same content with the same lineage under one name is one version.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from sqlalchemy import Integer, Select, bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.tables import Alias, Model, ModelVersion
from app.errors import Fault, NotFound, UnknownReference, shown
from app.services import imported, job_outputs, quotas

Json = dict[str, Any]
_Asked = dict[str, Select[*tuple[Any, ...]]]


@dataclass(frozen=True)
class Checkpoint:
    """A model that is not registered yet; the fields are those of ModelVersion.

    files: [{path, sha256, size}], stored already. lineage: {}, or of a student
    {job, teachers: [{version_id, ...}], datasets: [...]}.
    """

    source: Literal["import", "job"]
    format: str
    family: str
    task: str
    labels: list[str]
    input: Json
    preprocessing: Json
    gives: list[str]
    details: Json
    parameters: int
    files: list[Json]
    lineage: Json = field(default_factory=dict)

    @property
    def size(self) -> int:
        """In bytes, all files together."""
        return sum(file["size"] for file in self.files)


@dataclass(frozen=True)
class Entry:
    """A version with its model's name and the aliases that point at it."""

    name: str
    version: ModelVersion
    aliases: list[str]


def manifest(checkpoint: Checkpoint) -> bytes:
    """Canonical JSON of everything but the lineage; its sha256 is the version's digest."""
    content = {key: value for key, value in vars(checkpoint).items() if key != "lineage"}
    content["files"] = sorted(checkpoint.files, key=lambda file: file["path"])
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def register(
    session: Session, project_id: str, name: str, checkpoint: Checkpoint, alias: str | None = None
) -> ModelVersion:
    """The model's next version, or the one that is this already; `alias` moves to it."""
    return add(session, project_id, name, checkpoint, alias)[0]


def add(
    session: Session, project_id: str, name: str, checkpoint: Checkpoint, alias: str | None = None
) -> tuple[ModelVersion, bool]:
    """As `register`, and whether the version is new. Raises QuotaExceeded for an import."""
    model = _locked(session, project_id, name)
    digest = sha256(manifest(checkpoint)).hexdigest()
    same = (
        select(ModelVersion)
        .where(ModelVersion.model_id == model.id, ModelVersion.digest == digest)
        .order_by(ModelVersion.version)
    )
    known = next(
        (version for version in session.scalars(same) if version.lineage == checkpoint.lineage), None
    )
    if known is None and checkpoint.source == "import":  # what a job has made is kept, whatever it takes
        quotas.admit_bytes(session, project_id, checkpoint.size)
    version = known or _insert(session, model, checkpoint, digest)
    if alias is not None:
        point(session, model.id, alias, version.version)
    return version, known is None


def point(session: Session, model_id: str, alias: str, version: int) -> Alias:
    """Makes or moves an alias. The caller holds the model's lock."""
    row = session.get(Alias, (model_id, alias), populate_existing=True)
    if row is None:
        row = Alias(model_id=model_id, alias=alias, version=version)
        session.add(row)
    elif row.version != version:
        row.version, row.revision = version, row.revision + 1
    session.flush()
    return row


def lock(session: Session, project_id: str, name: str) -> Model | None:
    """The model, held against other writers until the transaction ends."""
    named = select(Model).where(Model.project_id == project_id, Model.name == name)
    return session.scalar(named.with_for_update().execution_options(populate_existing=True))


# ---- reading


def find(session: Session, project_id: str, reference: str) -> ModelVersion:
    """What `model:NAME`, `model:NAME@VERSION` or `model:NAME@ALIAS` points at; the prefix may be left out.
    Or what was imported from `hf:ORG/REPO@COMMIT`, or what `job:ID/checkpoint@best` has made.

    Raises UnknownReference, which says what there is.
    """
    if reference.startswith(imported.HUB):
        return session.get_one(ModelVersion, imported.identify(session, project_id, "model", reference))
    if reference.startswith(job_outputs.JOB):
        return session.get_one(ModelVersion, job_outputs.identify(session, project_id, reference))
    found: ModelVersion = _named(session, _VERSION, project_id, reference)
    return found


def identify(session: Session, project_id: str, reference: str) -> str:
    """The id of what `find` finds, for one small query; of what is in the registry."""
    if reference.startswith(job_outputs.JOB):
        return job_outputs.identify(session, project_id, reference)
    return str(_named(session, _ID, project_id, reference))


def _named(session: Session, asked: _Asked, project_id: str, reference: str) -> Any:
    """Raises UnknownReference."""
    name, _, selector = reference.removeprefix("model:").partition("@")
    found = _select(session, asked, project_id, name, selector)
    if found is None:
        detail = _what_there_is(session, project_id, name, _model(session, project_id, name))
        fault = Fault(
            "",
            "unknown_reference",
            detail,
            "Import the model with POST /v1/models, or name one that is there.",
        )
        raise UnknownReference(f"{shown(reference)} points at nothing: {detail}", fault)
    return found


def get(session: Session, project_id: str, name: str, selector: str) -> Entry:
    """The version with this number or alias. Raises NotFound, which says what there is."""
    version = _select(session, _VERSION, project_id, name, selector)
    if version is None:
        raise NotFound(_what_there_is(session, project_id, name, _model(session, project_id, name)))
    return entry(session, version)


def get_model(session: Session, project_id: str, name: str) -> Model:
    """Raises NotFound."""
    model = _model(session, project_id, name)
    if model is None:
        raise NotFound(_what_there_is(session, project_id, name, None))
    return model


def entry(session: Session, version: ModelVersion) -> Entry:
    model = session.get_one(Model, version.model_id)
    return Entry(
        model.name,
        version,
        [row.alias for row in aliases(session, model.id) if row.version == version.version],
    )


def list_(session: Session, project_id: str, *, before: str | None, limit: int) -> list[Model]:
    """The project's models, newest name first. before: the id of the last one seen."""
    page = select(Model).where(Model.project_id == project_id, Model.last_version > 0)
    if before is not None:
        page = page.where(Model.id < before)
    return list(session.scalars(page.order_by(Model.id.desc()).limit(limit)))


def versions(session: Session, model: Model, *, before: int | None, limit: int) -> list[ModelVersion]:
    """Its versions, newest first. before: the number of the last one seen."""
    page = select(ModelVersion).where(ModelVersion.model_id == model.id)
    if before is not None:
        page = page.where(ModelVersion.version < before)
    return list(session.scalars(page.order_by(ModelVersion.version.desc()).limit(limit)))


def latest(session: Session, models: Sequence[Model]) -> dict[str, ModelVersion]:
    """The newest version of each model, by the model's id."""
    newest = (
        select(ModelVersion)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(Model.id.in_([model.id for model in models]), ModelVersion.version == Model.last_version)
    )
    return {version.model_id: version for version in session.scalars(newest)}


def aliases(session: Session, *model_ids: str) -> list[Alias]:
    """The aliases of these models, by name."""
    return list(session.scalars(select(Alias).where(Alias.model_id.in_(model_ids)).order_by(Alias.alias)))


def file_of(version: ModelVersion, path: str) -> Json:
    """The entry {path, sha256, size} of one of its files. Raises NotFound, which names them."""
    found = next((file for file in version.files if file["path"] == path), None)
    if found is None:
        names = ", ".join(file["path"] for file in version.files[:20])
        raise NotFound(f"This version has no file {shown(path)}; it has {names}.")
    return dict(found)


def _model(session: Session, project_id: str, name: str) -> Model | None:
    return session.scalar(select(Model).where(Model.project_id == project_id, Model.name == name))


def _select(
    session: Session,
    asked: _Asked,
    project_id: str,
    name: str,
    selector: str,
) -> Any:
    """What is asked of the version, by its number, by an alias, or of the newest for an empty selector."""
    number = re.fullmatch("[0-9]{1,9}", selector)
    values = {"project_id": project_id, "name": name, "selector": int(selector) if number else selector}
    return session.scalar(asked["number" if number else "alias" if selector else "newest"], values)


def _statements(*asked: Any) -> _Asked:
    """What is asked of a version, by how the version is named."""
    models, versions, aliases = Model.__table__, ModelVersion.__table__, Alias.__table__
    named = (
        select(*asked)
        .select_from(versions.join(models, models.c.id == versions.c.model_id))
        .where(models.c.project_id == bindparam("project_id"), models.c.name == bindparam("name"))
    )
    alias = aliases.c.alias == bindparam("selector"), versions.c.version == aliases.c.version
    return {
        "number": named.where(versions.c.version == bindparam("selector", type_=Integer)),
        "alias": named.join(aliases, aliases.c.model_id == models.c.id).where(*alias),
        "newest": named.where(versions.c.version == models.c.last_version),
    }


# Every prediction asks for the id: statements made once and of tables, not classes, cost half the time.
_ID, _VERSION = _statements(ModelVersion.__table__.c.id), _statements(ModelVersion, Model)


def versions_of(model: Model) -> str:
    """For a message."""
    return "version 1 alone" if model.last_version == 1 else f"the versions 1 to {model.last_version}"


def _what_there_is(session: Session, project_id: str, name: str, model: Model | None) -> str:
    if model is None:
        names = [known.name for known in list_(session, project_id, before=None, limit=10)]
        return f"There is no model {shown(name)}. " + (
            f"There are {', '.join(names)}." if names else "There is none yet."
        )
    marks = [f"{row.alias} ({row.version})" for row in aliases(session, model.id)[:10]]
    return f"The model {name} has {versions_of(model)}" + (
        f" and the aliases {', '.join(marks)}." if marks else "."
    )


# ---- writing


def _locked(session: Session, project_id: str, name: str) -> Model:
    """The model, made when it is not there; two who make it at once get the same."""
    model = lock(session, project_id, name)
    if model is None:
        try:
            with session.begin_nested():
                session.add(Model(id=new_id("mdl"), project_id=project_id, name=name))
        except IntegrityError:
            pass  # another one made it meanwhile
        model = lock(session, project_id, name)
    assert model is not None  # models are never deleted
    return model


def _insert(session: Session, model: Model, checkpoint: Checkpoint, digest: str) -> ModelVersion:
    model.last_version += 1
    content = {**vars(checkpoint), "files": sorted(checkpoint.files, key=lambda file: file["path"])}
    version = ModelVersion(
        id=new_id("mdl"),
        project_id=model.project_id,
        model_id=model.id,
        version=model.last_version,
        digest=digest,
        size=checkpoint.size,
        **content,
    )
    session.add(version)
    session.flush()
    return version
