"""Jobs: their rows, what they point at, and what they tell."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import ENDED, db_now
from app.db.tables.base import Base, Json


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
        Index(None, "status", "project_id"),
        Index(
            "ix_jobs_queue",
            *("project_id", "accelerator", "priority", "created_at", "id"),
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "ix_jobs_due",
            *("accelerator", "available_at"),
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
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
    traceparent: Mapped[str | None] = mapped_column(String(64))  # W3C's, of the request that ordered it
    priority: Mapped[int] = mapped_column(default=50)
    accelerator: Mapped[str] = mapped_column(String(16), default="auto")
    devices: Mapped[int] = mapped_column(default=1)  # slots that it takes

    attempt: Mapped[int] = mapped_column(default=0)
    attempt_started_at: Mapped[datetime | None]  # the newest one's
    device: Mapped[str | None] = mapped_column(String(16))  # that it may use: cpu or cuda
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    deadline_at: Mapped[datetime | None]
    preempted: Mapped[bool] = mapped_column(default=False)  # the last worker handed it back, going away
    interruptions: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    no_progress: Mapped[int] = mapped_column(default=0)  # attempts in a row that got no further
    phases_done: Mapped[int] = mapped_column(default=0)  # most phases that any attempt completed
    runtime_left_s: Mapped[float | None]  # of resources.max_runtime_s; set while no attempt runs

    checkpoint_manifest: Mapped[str | None] = mapped_column(String(64))  # the newest one's
    checkpoint_step: Mapped[int] = mapped_column(default=0)
    adjustments: Mapped[Json] = mapped_column(default=dict)  # what attempts changed: {"lr_halvings": 1}

    phases: Mapped[list[Any]]
    progress: Mapped[Json]
    best: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    outcome: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    usage: Mapped[Json]
    output_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    result_manifest: Mapped[str | None] = mapped_column(String(64))
    artifacts: Mapped[list[Any]]  # [{name, sha256, size, media_type}]
    artifact_bytes: Mapped[int] = mapped_column(BigInteger, default=0)

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


class JobCheckpoint(Base):
    """Where a job can be taken up again. `manifest` is the sha256 of the blob that lists its files.

    attempt: which one saved it; 0: it is the one of the job that this one retries.
    """

    __tablename__ = "checkpoints"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    manifest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes, all files together
    best: Mapped[bool]  # of those that are kept
    metrics: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class AttemptLog(Base):
    """What an attempt's process said, fit to be shown to the job's owner."""

    __tablename__ = "attempt_logs"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class MetricPoint(Base):
    __tablename__ = "metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    split: Mapped[str] = mapped_column(String(32), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Idempotency(Base):
    """An accepted POST, by its client's key; for 24 hours the same key with another body is refused."""

    __tablename__ = "idempotency"
    __table_args__ = (
        CheckConstraint(
            "CASE WHEN job_id IS NULL THEN 0 ELSE 1 END + CASE WHEN sweep_id IS NULL THEN 0 ELSE 1 END"
            " + CASE WHEN import_id IS NULL THEN 0 ELSE 1 END = 1",
            name="made",
        ),
        Index(None, "project_id", "created_at"),
    )
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"))
    import_id: Mapped[str | None] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
