"""Events on their way to a project's stream and to its webhooks."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    create_triggers(op.get_bind())
