"""The trace that a sweep's trials belong to."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import create_triggers

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("traceparent", sa.String(64), nullable=True))
    create_triggers(op.get_bind())
