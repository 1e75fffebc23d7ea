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
    _fill_runtime_left()
    create_triggers(op.get_bind())


def _fill_runtime_left() -> None:
    """Claims read it from the row now, and jobs that waited before have none."""
    json = sa.column("resolved", sa.JSON())
    jobs = sa.table("jobs", sa.column("id"), sa.column("status"), json, sa.column("runtime_left_s"))
    waiting = jobs.c.status.in_(["queued", "paused"]) & jobs.c.runtime_left_s.is_(None)
    for job_id, resolved in op.get_bind().execute(sa.select(jobs.c.id, jobs.c.resolved).where(waiting)).all():
        left_s = float(resolved["spec"]["resources"]["max_runtime_s"])
        op.execute(sa.update(jobs).where(jobs.c.id == job_id).values(runtime_left_s=left_s))
