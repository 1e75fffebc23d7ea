"""What many tests of routes need: an API with orders' stock, and a way to its database beside it."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.db.session import Sessions
from app.main import create_app
from app.settings import Settings
from tests import orders


@pytest.fixture
def database(settings: Settings) -> Iterator[Sessions]:
    """That of the API, for a test that stands in a worker's place."""
    sessions = Sessions(settings.database_url)
    yield sessions
    sessions.close()


@pytest.fixture
def client(settings: Settings, database: Sessions) -> Iterator[TestClient]:
    """An API whose only worker has no slot for what these tests submit: they ask for a GPU."""
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        with database.write() as session:
            orders.stock(session)
        yield client
