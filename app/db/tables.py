"""The rows. Whoever wants to know the truth about a job, a model or a dataset reads it here."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db.dialect import ENDED, UtcTime, db_now

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcTime,
        Json: JSON,
        list[Any]: JSON,
        str: String(255),
        float: Float(53),
    }


class Project(Base):
    """Everything belongs to one; another project's ids answer 404."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Key(Base):
    """`sh_<id>_<secret>`: only the SHA-256 of the whole key is kept."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    revoked_at: Mapped[datetime | None]


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


class Job(Base):
    """Only services.jobs writes `status`; `attempt` is the fencing token; `version` counts the changes."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"status IN ('queued', 'running', 'paused', {ENDED})", name="status"),
        CheckConstraint("desired IN ('run', 'pause', 'cancel', 'finish')", name="desired"),
        CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="lease_owner"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease_expires_at"),
        CheckConstraint(f"(status IN ({ENDED})) = (ended_at IS NOT NULL)", name="ended_at"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("status <> 'succeeded' OR output_version_id IS NOT NULL", name="output"),
        CheckConstraint("attempt >= 0 AND version >= 1 AND last_seq >= 0", name="counters"),
        Index(None, "status", "priority", "created_at"),
        Index(None, "project_id", "created_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    parent_id: Mapped[str | None]
    task: Mapped[str]
    spec: Mapped[Json] = mapped_column(JSON)  # as it was sent
    resolved: Mapped[Json]  # catalog.spec.Resolved: every default, every pin
    spec_digest: Mapped[str] = mapped_column(String(64))

    status: Mapped[str] = mapped_column(String(16), default="queued")
    desired: Mapped[str] = mapped_column(String(16), default="run")
    version: Mapped[int] = mapped_column(default=1)
    last_seq: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=50)
    accelerator: Mapped[str] = mapped_column(String(16), default="auto")

    attempt: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    deadline_at: Mapped[datetime | None]
    interruptions: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    no_progress: Mapped[int] = mapped_column(default=0)  # attempts in a row that got no further
    phases_done: Mapped[int] = mapped_column(default=0)  # most phases that any attempt completed

    phases: Mapped[list[Any]]
    progress: Mapped[Json]
    best: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    outcome: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    usage: Mapped[Json]
    output_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    result_manifest: Mapped[str | None] = mapped_column(String(64))
    artifacts: Mapped[list[Any]]  # [{name, sha256, size, media_type}]

    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class JobLabel(Base):
    __tablename__ = "job_labels"
    __table_args__ = (Index(None, "key", "value"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


class JobReference(Base):
    """What a job points at, so that nothing in use is deleted and `?model=` can filter.

    role: teacher, train, validation, test, unlabeled or initialize; of a student that the job made on its
    way, generation-1, assistant-1, peer-1, ema or trained.
    """

    __tablename__ = "job_references"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    target_id: Mapped[str] = mapped_column(primary_key=True, index=True)  # of a dataset or a model version
    role: Mapped[str] = mapped_column(String(16), primary_key=True)


class Event(Base):
    """Append-only; `seq` counts from 1 without a gap within its job."""

    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(String(32))
    level: Mapped[str] = mapped_column(String(8), default="info")
    at: Mapped[datetime] = mapped_column(insert_default=db_now())
    phase: Mapped[str | None] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[Json]


class MetricPoint(Base):
    __tablename__ = "metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    split: Mapped[str] = mapped_column(String(32), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Signals(Base):
    """A teacher's stored answers, found again by `key`: digests of teacher and data, preprocessing, dtype."""

    __tablename__ = "signals"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Sweep(Base):
    """A search, whose trials are jobs. Only services.sweep_steps ends it; `version` counts the changes."""

    __tablename__ = "sweeps"
    __table_args__ = (
        CheckConstraint(f"status IN ('running', {ENDED})", name="status"),
        CheckConstraint("desired IN ('run', 'cancel')", name="desired"),
        CheckConstraint("(status = 'running') = (ended_at IS NULL)", name="ended_at"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        Index(None, "project_id", "created_at"),
        Index(None, "status"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    spec: Mapped[Json]  # catalog.sweep.SweepSpec, as it was sent
    resolved: Mapped[Json]  # the same with its own defaults, and with what the job spec points at pinned
    seed: Mapped[int] = mapped_column(BigInteger)
    metric: Mapped[str | None] = mapped_column(String(64))  # None: not known before a trial has measured
    status: Mapped[str] = mapped_column(String(16), default="running")
    desired: Mapped[str] = mapped_column(String(16), default="run")
    version: Mapped[int] = mapped_column(default=1)
    error: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    deadline_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    ended_at: Mapped[datetime | None]


class SweepTrial(Base):
    """One set of values of a sweep, and the job that tries them; None: it was refused, or is deleted."""

    __tablename__ = "sweep_trials"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'succeeded', 'failed', 'pruned', 'cancelled')", name="status"),
        CheckConstraint("(status = 'running') = (ended_at IS NULL)", name="ended_at"),
        CheckConstraint("status <> 'succeeded' OR value IS NOT NULL", name="value"),
    )
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 0
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), unique=True)
    parameters: Mapped[Json]  # values by their pointer into the job spec
    status: Mapped[str] = mapped_column(String(16), default="running")
    value: Mapped[float | None]  # of the sweep's metric on the validation rows
    curve: Mapped[list[Any]] = mapped_column(default=list)  # of that metric, one value an epoch
    student_parameters: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the largest exported file
    latency_ms: Mapped[float | None]  # median of one row, of the fastest exported file
    report: Mapped[Json | None] = mapped_column(
        JSON(none_as_null=True)
    )  # {split, rows, metric, value, low, high}
    pruned: Mapped[Json | None] = mapped_column(
        JSON(none_as_null=True)
    )  # {epoch, step, value, median, reason}
    error: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    ended_at: Mapped[datetime | None]


class Idempotency(Base):
    """An accepted POST, by its client's key; for 24 hours the same key with another body is refused."""

    __tablename__ = "idempotency"
    __table_args__ = (CheckConstraint("(job_id IS NULL) <> (sweep_id IS NULL)", name="made"),)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
