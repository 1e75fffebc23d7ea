"""What nobody refers to any more, and since when; chores that one process at a time does."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )
    op.create_table(
        "condemned",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_condemned")),
    )
    create_triggers(op.get_bind())
