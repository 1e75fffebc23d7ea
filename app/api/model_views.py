"""How models look from outside."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.api.pages import Page
from app.db.tables import Alias, Model, ModelVersion
from app.services.layers import Layer
from app.services.models import Entry

Json = dict[str, Any]


class FileView(BaseModel):
    path: str
    sha256: str
    size: int = Field(description="bytes")


class VersionSummary(BaseModel):
    """A version without what may be long."""

    object: Literal["model_version"] = "model_version"
    id: str
    name: str
    version: int
    reference: str = Field(description="what a job spec names it by")
    digest: str = Field(description="sha256 of its manifest")
    source: Literal["import", "job"]
    format: str
    family: str
    task: str
    classes: int
    parameters: int
    size: int = Field(description="bytes of all files")
    created_at: datetime

    @classmethod
    def of(cls, name: str, version: ModelVersion) -> Self:
        return cls.model_validate(_summary(name, version))


class VersionView(VersionSummary):
    labels: list[str] = Field(description="in the order of the logits")
    input: Json = Field(description="shape of one encoded row")
    preprocessing: Json
    gives: list[str] = Field(description="what it can show a loss")
    details: Json
    files: list[FileView]
    lineage: Json = Field(
        description="of a student: its job, teachers and data; else the source that it was fetched from"
    )
    aliases: list[str]
    links: dict[str, str]

    @classmethod
    def of_entry(cls, entry: Entry, **more: Any) -> Self:
        version, name = entry.version, entry.name
        path = f"/v1/models/{name}/versions/{version.version}"
        long = {key: getattr(version, key) for key in _LONG}
        links = {"self": path, **{part: f"{path}/{part}" for part in ("files", "lineage", "layers")}}
        return cls.model_validate(
            {**_summary(name, version), **long, "aliases": entry.aliases, "links": links, **more}
        )


class ImportedView(VersionView):
    warnings: list[str] = Field(description="what to know before it teaches")


class LayersView(BaseModel):
    """ready false: a worker is listing them; ask again."""

    object: Literal["layers"] = "layers"
    ready: bool
    data: list[Layer] = Field(
        description="in the model's order; shape: of what one row shows; stage: what `pairs: auto` matches"
    )


class AliasView(BaseModel):
    object: Literal["alias"] = "alias"
    alias: str
    version: int
    revision: int = Field(description="counts the moves; its ETag")
    updated_at: datetime

    @classmethod
    def of(cls, row: Alias) -> Self:
        return cls.model_validate(
            {key: getattr(row, key) for key in ("alias", "version", "revision", "updated_at")}
        )


class ModelSummary(BaseModel):
    object: Literal["model"] = "model"
    name: str
    created_at: datetime
    aliases: list[AliasView]
    latest: VersionSummary

    @classmethod
    def of(cls, model: Model, latest: ModelVersion, aliases: list[Alias]) -> Self:
        mine = [AliasView.of(row) for row in aliases if row.model_id == model.id]
        return cls(
            name=model.name,
            created_at=model.created_at,
            aliases=mine,
            latest=VersionSummary.of(model.name, latest),
        )


class ModelView(BaseModel):
    object: Literal["model"] = "model"
    name: str
    created_at: datetime
    aliases: list[AliasView]
    versions: Page[VersionSummary] = Field(description="newest first")


_SHORT = (
    "id", "version", "digest", "source", "format", "family", "task", "parameters", "size", "created_at",
)  # fmt: skip
_LONG = ("labels", "input", "preprocessing", "gives", "details", "files", "lineage")


def _summary(name: str, version: ModelVersion) -> Json:
    short = {key: getattr(version, key) for key in _SHORT}
    return {
        **short,
        "name": name,
        "reference": f"model:{name}@{version.version}",
        "classes": len(version.labels),
    }
