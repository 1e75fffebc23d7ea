"""Sweeps and their trials."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import ENDED, db_now
from app.db.tables.base import Base, Json


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
    traceparent: Mapped[str | None] = mapped_column(String(64))  # W3C's, of the request that ordered it
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
