"""Who carries jobs out."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base


class Worker(Base):
    """A process with slots, which says again and again that it is there; past `expires_at` it is lost."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]  # for operators; no answer shows it
    version: Mapped[str]
    accelerators: Mapped[list[Any]]
    devices: Mapped[list[Any]]  # names of its GPUs
    slots: Mapped[int]
    leaving: Mapped[bool] = mapped_column(default=False)  # it claims nothing more
    started_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    seen_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    expires_at: Mapped[datetime]
