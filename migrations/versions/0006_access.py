"""Scopes and ends of keys, quotas, usage and the audit log."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    create_triggers(op.get_bind())
