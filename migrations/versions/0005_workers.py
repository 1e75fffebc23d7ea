"""Workers that say that they are there."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_triggers(op.get_bind())
