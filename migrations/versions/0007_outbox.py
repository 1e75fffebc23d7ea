"""Events on their way to a project's stream and to its webhooks."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("projects") as projects:
        projects.add_column(sa.Column("events", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("projects") as projects:
        projects.alter_column("events", server_default=None)
    op.create_table(
        "outbox",
        sa.Column("id", counter, nullable=False),
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_table(
        "project_events",
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("place", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "seq"],
            ["events.job_id", "events.seq"],
            name=op.f("fk_project_events_job_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_events_project_id")),
        sa.PrimaryKeyConstraint("project_id", "place", name=op.f("pk_project_events")),
    )
    op.create_index(op.f("ix_project_events_job_id_seq"), "project_events", ["job_id", "seq"], unique=True)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("types", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_because", sa.String(255), nullable=True),
        sa.Column("secrets", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_webhooks_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_project_id"), "webhooks", ["project_id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("webhook_id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at", UtcTime(), nullable=False),
        sa.Column("answer", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(255), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_deliveries_status")),
        sa.CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name=op.f("ck_deliveries_ended_at")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(op.f("ix_deliveries_status_available_at"), "deliveries", ["status", "available_at"])
    op.create_index(op.f("ix_deliveries_webhook_id_id"), "deliveries", ["webhook_id", "id"])
    create_triggers(op.get_bind())
