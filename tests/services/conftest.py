"""What tests of plans share."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app.db.session import Sessions
from app.db.tables import Project
from tests import orders


@pytest.fixture
def shop(sqlite_url: str) -> Iterator[Session]:
    """A transaction in which there is what the smallest order points at, and a worker for it."""
    sessions = Sessions(sqlite_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
        orders.worker(session)
        yield session
    sessions.close()
