"""Checkpoints, what a job was changed to on its way, the time that it has left, and its attempts' logs."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("checkpoint_manifest", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_step", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("adjustments", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("runtime_left_s", sa.Float(53), nullable=True))
    if op.get_bind().dialect.name != "sqlite":  # which could only copy the table, and loses its checks
        op.alter_column("jobs", "checkpoint_step", server_default=None)
        op.alter_column("jobs", "adjustments", server_default=None)

    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("best", sa.Boolean(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "attempt_logs",
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_attempt_logs_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_attempt_logs")),
    )
    create_triggers(op.get_bind())
