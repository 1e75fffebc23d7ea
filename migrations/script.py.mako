"""${message}."""


import sqlalchemy as sa
from alembic import op

from app.db.dialect import UtcTime, create_triggers
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
    create_triggers(op.get_bind())
