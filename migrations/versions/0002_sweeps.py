"""Sweeps and their trials; an Idempotency-Key may stand for a sweep."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("resolved", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("metric", sa.String(64), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("desired", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("deadline_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_sweeps_status")
        ),
        sa.CheckConstraint("desired IN ('run', 'cancel')", name=op.f("ck_sweeps_desired")),
        sa.CheckConstraint("(status = 'running') = (ended_at IS NULL)", name=op.f("ck_sweeps_ended_at")),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_sweeps_error")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_sweeps_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index(op.f("ix_sweeps_project_id_created_at"), "sweeps", ["project_id", "created_at"])
    op.create_index(op.f("ix_sweeps_status"), "sweeps", ["status"])

    op.create_table(
        "sweep_trials",
        sa.Column("sweep_id", sa.String(255), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("job_id", sa.String(255), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("value", sa.Float(53), nullable=True),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("student_parameters", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("latency_ms", sa.Float(53), nullable=True),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("pruned", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'pruned', 'cancelled')",
            name=op.f("ck_sweep_trials_status"),
        ),
        sa.CheckConstraint(
            "(status = 'running') = (ended_at IS NULL)", name=op.f("ck_sweep_trials_ended_at")
        ),
        sa.CheckConstraint("status <> 'succeeded' OR value IS NOT NULL", name=op.f("ck_sweep_trials_value")),
        sa.ForeignKeyConstraint(
            ["sweep_id"], ["sweeps.id"], name=op.f("fk_sweep_trials_sweep_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_sweep_trials_job_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("sweep_id", "number", name=op.f("pk_sweep_trials")),
        sa.UniqueConstraint("job_id", name=op.f("uq_sweep_trials_job_id")),
    )

    with op.batch_alter_table("idempotency") as table:
        table.add_column(sa.Column("sweep_id", sa.String(255), nullable=True))
        table.alter_column("job_id", existing_type=sa.String(255), nullable=True)
        table.create_foreign_key(
            op.f("fk_idempotency_sweep_id"), "sweeps", ["sweep_id"], ["id"], ondelete="CASCADE"
        )
        table.create_check_constraint(op.f("ck_idempotency_made"), "(job_id IS NULL) <> (sweep_id IS NULL)")
    create_triggers(op.get_bind())
