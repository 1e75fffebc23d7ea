"""Checkpoints, and what a job was changed to on its way."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_triggers(op.get_bind())
