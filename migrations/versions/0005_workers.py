"""Workers that say that they are there; how many devices a job takes; an index in the order of claims."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("accelerators", sa.JSON(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("preempted", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.drop_index(op.f("ix_jobs_status_priority_created_at"))
    with op.batch_alter_table("jobs") as table:
        table.alter_column("devices", existing_type=sa.Integer(), server_default=None)
        table.alter_column("preempted", existing_type=sa.Boolean(), server_default=None)
    op.create_index(op.f("ix_jobs_status_project_id"), "jobs", ["status", "project_id"])
    queued = sa.text("status = 'queued'")
    op.create_index(
        op.f("ix_jobs_queue"),
        "jobs",
        ["project_id", "accelerator", "priority", "created_at", "id"],
        sqlite_where=queued,
        postgresql_where=queued,
    )
    create_triggers(op.get_bind())
