"""The layers of model versions, which workers list."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "model_layers",
        sa.Column("version_id", sa.String(255), nullable=False),
        sa.Column("layers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.String(500), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_model_layers_attempts")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_model_layers_version_id")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_model_layers")),
    )
    create_triggers(op.get_bind())
