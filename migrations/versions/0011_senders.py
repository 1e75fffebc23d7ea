"""Which deliveries are being sent; the keys of a project's POSTs by their age."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("sending_until", UtcTime(), nullable=True))
    op.drop_index(op.f("ix_deliveries_status_available_at"), "deliveries")
    _create_partial_index("ix_deliveries_due", ["webhook_id", "available_at"], "status = 'pending'")
    _create_partial_index(
        "ix_deliveries_sending", ["webhook_id", "sending_until"], "sending_until IS NOT NULL"
    )
    op.create_index(op.f("ix_idempotency_project_id_created_at"), "idempotency", ["project_id", "created_at"])
    create_triggers(op.get_bind())


def _create_partial_index(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "deliveries", columns, sqlite_where=where, postgresql_where=where)
