"""What is fetched from elsewhere: imports, and where a dataset came from."""

import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers

revision = "0008"
down_revision = "0007"

_ENDED = "'succeeded', 'failed', 'cancelled'"
_ONE = " + ".join(f"CASE WHEN {made}_id IS NULL THEN 0 ELSE 1 END" for made in ("job", "sweep", "import"))


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("source", sa.String(1200), nullable=False),
        sa.Column("texts", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("pinned", sa.String(1300), nullable=True),
        sa.Column("files", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("target_id", sa.String(255), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("lease_expires_at", UtcTime(), nullable=True),
        sa.Column("available_at", UtcTime(), nullable=False),
        sa.Column("deadline_at", UtcTime(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        *_checks(),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_imports_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_project_id_created_at"), "imports", ["project_id", "created_at"])
    op.create_index(op.f("ix_imports_status_available_at"), "imports", ["status", "available_at"])
    op.create_index(op.f("ix_imports_project_id_pinned"), "imports", ["project_id", "pinned"])
    with op.batch_alter_table("datasets") as datasets:
        datasets.add_column(sa.Column("source", sa.String(1300), nullable=True))
    with op.batch_alter_table("idempotency") as idempotency:
        idempotency.drop_constraint(op.f("ck_idempotency_made"), type_="check")
        idempotency.add_column(sa.Column("import_id", sa.String(255), nullable=True))
        idempotency.create_foreign_key(
            op.f("fk_idempotency_import_id"), "imports", ["import_id"], ["id"], ondelete="CASCADE"
        )
        idempotency.create_check_constraint(op.f("ck_idempotency_made"), f"{_ONE} = 1")
    create_triggers(op.get_bind())


def _checks() -> list[sa.CheckConstraint]:
    rules = {
        "kind": "kind IN ('model', 'dataset')",
        "status": f"status IN ('queued', 'running', {_ENDED})",
        "lease": "(status = 'running') = (lease_expires_at IS NOT NULL)",
        "ended_at": f"(status IN ({_ENDED})) = (ended_at IS NOT NULL)",
        "error": "(status = 'failed') = (error IS NOT NULL)",
        "target": "(status = 'succeeded') = (target_id IS NOT NULL)",
        "attempt": "attempt >= 0 AND tries >= 0",
    }
    return [sa.CheckConstraint(rule, name=op.f(f"ck_imports_{name}")) for name, rule in rules.items()]
