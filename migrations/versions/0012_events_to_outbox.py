"""A trigger fills the outbox: whoever writes an event need not think of it."""

from alembic import op

from app.db.dialect import create_triggers

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_index(op.f("ix_outbox_job_id_seq"), "outbox", ["job_id", "seq"], unique=True)
    create_triggers(op.get_bind())
