"""What is fetched from elsewhere."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import ENDED, db_now
from app.db.tables.base import Base, Json


class Import(Base):
    """A model or a dataset on its way here. Only services.import_orders and import_leases change its status;
    `version` counts the changes."""

    __tablename__ = "imports"
    __table_args__ = (
        CheckConstraint("kind IN ('model', 'dataset')", name="kind"),
        CheckConstraint(f"status IN ('queued', 'running', {ENDED})", name="status"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint(f"(status IN ({ENDED})) = (ended_at IS NOT NULL)", name="ended_at"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("(status = 'succeeded') = (target_id IS NOT NULL)", name="target"),
        CheckConstraint("attempt >= 0 AND tries >= 0", name="attempt"),
        Index(None, "project_id", "created_at"),
        Index(None, "status", "available_at"),
        Index(None, "project_id", "pinned"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]  # of the model or the dataset that it becomes a version of
    source: Mapped[str] = mapped_column(String(1200))  # as it was sent
    texts: Mapped[Json]  # services.sources.ModelOrder or DatasetOrder, as it was sent
    digest: Mapped[str] = mapped_column(String(64))  # of all that decides what comes out of the same bytes
    pinned: Mapped[str | None] = mapped_column(String(1300))  # the source with the commit or content it meant
    files: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # ports.origin.RemoteFile
    status: Mapped[str] = mapped_column(String(16), default="queued")
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token
    tries: Mapped[int] = mapped_column(default=0)  # attempts since bytes came last
    version: Mapped[int] = mapped_column(default=1)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # that are here
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    target_id: Mapped[str | None]  # the model version or the dataset
    result: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))  # {reference, new, warnings}
    error: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    lease_expires_at: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    deadline_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    ended_at: Mapped[datetime | None]
