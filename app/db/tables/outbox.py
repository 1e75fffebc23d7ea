"""Events on their way out: to a project's stream, and to its webhooks."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base, Json

Counter = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts INTEGER keys alone


class Outbox(Base):
    """An event that is committed and not yet handed on; a trigger writes it with the event itself."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "job_id", "seq", unique=True),)
    id: Mapped[int] = mapped_column(Counter, primary_key=True)
    job_id: Mapped[str]
    seq: Mapped[int]


class ProjectEvent(Base):
    """The place of an event in its project's stream: `place` counts from 1, in the order of commits."""

    __tablename__ = "project_events"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "seq"], ["events.job_id", "events.seq"], ondelete="CASCADE"),
        Index(None, "job_id", "seq", unique=True),
    )
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    place: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    job_id: Mapped[str]
    seq: Mapped[int]


class Webhook(Base):
    """Where a project wants its events sent. `secrets`: base64, newest first; all of them sign."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[str]
    types: Mapped[list[Any]]  # of events; none: all
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_because: Mapped[str | None]
    secrets: Mapped[list[Any]]  # [{secret, until}]; until: None, or the stamp at which it signs no more
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Delivery(Base):
    """One event for one webhook, with all that is sent; tried until it is taken or too old."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="ended_at"),
        Index(None, "webhook_id", "id"),
        Index(
            "ix_deliveries_due",
            *("webhook_id", "available_at"),
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
        ),
        Index(
            "ix_deliveries_sending",
            *("webhook_id", "sending_until"),
            sqlite_where=text("sending_until IS NOT NULL"),
            postgresql_where=text("sending_until IS NOT NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(32))
    payload: Mapped[Json] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    available_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    sending_until: Mapped[datetime | None]  # a sender has it, or had it when its process died
    answer: Mapped[int | None]  # the last attempt's HTTP status
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    ended_at: Mapped[datetime | None]
