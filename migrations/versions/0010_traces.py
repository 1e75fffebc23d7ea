"""The trace that a job belongs to; what has happened so far, counted."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import create_triggers

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.String(64), nullable=True))
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["accelerator", "available_at"],
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("label", sa.String(255), nullable=False),
        sa.Column("bucket", sa.Float(53), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", "bucket", name=op.f("pk_tallies")),
    )
    create_triggers(op.get_bind())
