"""Who may ask: projects and their keys."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base


class Project(Base):
    """Everything belongs to one; another project's ids answer 404."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    events: Mapped[int] = mapped_column(BigInteger, default=0)  # places given in its stream
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
