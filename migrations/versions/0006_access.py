"""Scopes and ends of keys, quotas, usage and the audit log."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0006"
down_revision = "0005"
_ALL = '["read", "write", "predict", "admin"]'  # what every key could do until now


def upgrade() -> None:
    with op.batch_alter_table("projects") as table:
        table.add_column(sa.Column("max_running_jobs", sa.Integer(), nullable=True))
        table.add_column(sa.Column("max_queued_jobs", sa.Integer(), nullable=True))
        table.add_column(sa.Column("max_gpu_s", sa.Float(53), nullable=True))
        table.add_column(sa.Column("max_bytes", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("max_parameters", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("keys") as table:
        table.add_column(sa.Column("scopes", sa.JSON(), nullable=False, server_default=_ALL))
        table.add_column(sa.Column("expires_at", UtcTime(), nullable=True))
        table.add_column(sa.Column("last_used_at", UtcTime(), nullable=True))
        table.add_column(sa.Column("created_by", sa.String(255), nullable=True))
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("attempt_started_at", UtcTime(), nullable=True))
        table.add_column(sa.Column("device", sa.String(16), nullable=True))
        table.add_column(sa.Column("artifact_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("keys") as table:
        table.alter_column("scopes", existing_type=sa.JSON(), server_default=None)
    with op.batch_alter_table("jobs") as table:
        table.alter_column("artifact_bytes", existing_type=sa.BigInteger(), server_default=None)
    op.create_index(op.f("ix_keys_project_id_id"), "keys", ["project_id", "id"])

    op.create_table(
        "compute_usage",
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("cpu_s", sa.Float(53), nullable=False),
        sa.Column("gpu_s", sa.Float(53), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_compute_usage_project_id")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "day", name=op.f("pk_compute_usage")),
    )
    op.create_index(op.f("ix_compute_usage_project_id_day"), "compute_usage", ["project_id", "day"])
    op.create_table(
        "prediction_usage",
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_prediction_usage_project_id")),
        sa.PrimaryKeyConstraint("project_id", "day", name=op.f("pk_prediction_usage")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=True),
        sa.Column("key_id", sa.String(255), nullable=True),
        sa.Column("method", sa.String(8), nullable=False),
        sa.Column("route", sa.String(255), nullable=False),
        sa.Column("object", sa.String(500), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=True),
        sa.Column("request_id", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_project_id_id"), "audit", ["project_id", "id"])
    _weigh_artifacts()
    create_triggers(op.get_bind())


def _weigh_artifacts() -> None:
    """Of ended jobs too, whose rows are open until the triggers are created again."""
    bind = op.get_bind()
    of_table = " ON jobs" if bind.dialect.name == "postgresql" else ""
    bind.execute(sa.text(f"DROP TRIGGER IF EXISTS jobs_terminal_immutable{of_table}"))
    jobs = sa.table("jobs", sa.column("id"), sa.column("artifacts", sa.JSON()), sa.column("artifact_bytes"))
    for job_id, artifacts in bind.execute(sa.select(jobs.c.id, jobs.c.artifacts)).all():
        if artifacts:
            size = sum(artifact["size"] for artifact in artifacts)
            bind.execute(sa.update(jobs).where(jobs.c.id == job_id).values(artifact_bytes=size))
