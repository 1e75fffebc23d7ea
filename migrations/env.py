"""Run by Alembic: on app.db.migrate's connection or, by the `alembic` command, on the configured database."""

from alembic import context
from sqlalchemy import Connection

from app.db.session import Sessions
from app.db.tables import Base
from app.settings import Settings


def run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, user_module_prefix=""
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with Sessions(Settings().database_url).engine.begin() as connection:
        run(connection)
