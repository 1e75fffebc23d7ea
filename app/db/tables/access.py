"""Who may ask, how much, and what was done: projects, their keys and quotas, usage and the audit log."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base


class Project(Base):
    """Everything belongs to one; another project's ids answer 404. Of its quotas null means no limit."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    events: Mapped[int] = mapped_column(BigInteger, default=0)  # places given in its stream
    max_running_jobs: Mapped[int | None]
    max_queued_jobs: Mapped[int | None]
    max_gpu_s: Mapped[float | None]  # in a calendar month, UTC
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of datasets, models and artifacts
    max_parameters: Mapped[int | None] = mapped_column(BigInteger)  # of one student
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Key(Base):
    """`sh_<id>_<secret>`: only the SHA-256 of the whole key is kept."""

    __tablename__ = "keys"
    __table_args__ = (Index(None, "project_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]  # services.access.Scope
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    created_by: Mapped[str | None]  # the key that made it; null: the operator's settings, or keys were off
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to within a minute


class ComputeUsage(Base):
    """What an attempt took on a UTC day, written in the transaction that ends it; it outlives its job."""

    __tablename__ = "compute_usage"
    __table_args__ = (Index(None, "project_id", "day"),)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)  # 2026-11-21
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    cpu_s: Mapped[float]
    gpu_s: Mapped[float]  # times the GPUs that it held


class PredictionUsage(Base):
    """Predictions that were answered on a UTC day; each process adds what it counted every few seconds."""

    __tablename__ = "prediction_usage"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)


class AuditEntry(Base):
    """Append-only: a write or a denied request, by whom. Nothing of its body, and no key."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "project_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(insert_default=db_now())
    project_id: Mapped[str | None]  # null: nobody that is known
    key_id: Mapped[str | None]  # null: nobody that is known, or keys were off
    method: Mapped[str] = mapped_column(String(8))
    route: Mapped[str]  # its template
    object: Mapped[str] = mapped_column(String(500))  # what stood for the template's parameters
    status: Mapped[int]
    code: Mapped[str | None] = mapped_column(String(64))  # of the error
    request_id: Mapped[str]
