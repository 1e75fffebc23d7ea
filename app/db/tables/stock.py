"""What jobs are made of and make: datasets, models, and what is known of them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base, Json


class Dataset(Base):
    """One immutable version of a named dataset. `files` maps a split to its Parquet {sha256, size, rows}."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project_id", "name", "version"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))  # of the content; the same content is the same version
    rows: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    files: Mapped[Json]
    profile: Mapped[Json]
    source: Mapped[str | None] = mapped_column(String(1300))  # pinned; None: it was uploaded
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class DatasetName(Base):
    """Counts a name's versions, deleted ones too, so that a number never comes to mean other content."""

    __tablename__ = "dataset_names"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    last_version: Mapped[int] = mapped_column(default=0)


class Model(Base):
    """A name under which versions stand."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    last_version: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class ModelVersion(Base):
    """One immutable checkpoint, imported or distilled. `digest` is the sha256 of its manifest."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "version"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))  # import | job
    format: Mapped[str] = mapped_column(String(16))  # huggingface | onnx | mlp
    family: Mapped[str]  # model_type of a Hugging Face config; "onnx" for a black box
    task: Mapped[str]
    labels: Mapped[list[Any]]  # names, in the order of the logits
    input: Mapped[Json]  # catalog.base.Input
    preprocessing: Mapped[Json]
    gives: Mapped[list[Any]]  # what it can show a loss: logits, features, attentions
    details: Mapped[
        Json
    ]  # by format: a Hugging Face folder's config.json; an ONNX file's input, output and kind
    parameters: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    files: Mapped[list[Any]]  # [{path, sha256, size}], sorted by path
    lineage: Mapped[Json]  # of a student: {job, teachers, datasets}; of an import: {}
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class ModelLayers(Base):
    """What a worker says of a version's layers; neither layers nor error: somebody waits for it."""

    __tablename__ = "model_layers"
    __table_args__ = (CheckConstraint("attempts >= 0", name="attempts"),)
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    layers: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # services.layers.Layer
    error: Mapped[str | None] = mapped_column(String(500))
    attempts: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Alias(Base):
    """A movable name of a version. `revision` counts its moves and is its ETag."""

    __tablename__ = "aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]
    revision: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime] = mapped_column(insert_default=db_now(), onupdate=db_now())


class Signals(Base):
    """A teacher's stored answers, found again by `key`: digests of teacher and data, preprocessing, dtype."""

    __tablename__ = "signals"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
