"""What is fetched from elsewhere."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    create_triggers(op.get_bind())
