"""What keeps the rest tidy."""

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.dialect import db_now
from app.db.tables.base import Base


class Chore(Base):
    """Something that one process does from time to time: whoever moves `due_at` does it."""

    __tablename__ = "chores"
    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Condemned(Base):
    """Stored content that no row refers to, and when that was first seen."""

    __tablename__ = "condemned"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    since: Mapped[datetime] = mapped_column(insert_default=db_now())


class Tally(Base):
    """How often something has happened since the database was made, over all projects.

    bucket: the upper end of a duration's bucket in seconds; 0 where nothing is measured. total: the seconds.
    """

    __tablename__ = "tallies"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[float] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[float] = mapped_column(default=0.0)
