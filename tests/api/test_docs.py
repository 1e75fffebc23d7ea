"""The page for people needs nothing from elsewhere."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def test_the_page_and_all_that_it_loads_come_from_here(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "SwaggerUIBundle" in page
    assert "//" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', page))
    for path, media_type in [
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/docs/favicon.png", "image/png"),
    ]:
        assert path in page
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
    assert client.get("/docs/core.py").status_code == 422


def test_the_carried_swagger_ui_can_show_this_version_of_openapi(client: TestClient) -> None:
    """OpenAPI 3.1 needs Swagger UI 5."""
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
    assert re.search(r'PACKAGE_VERSION:"(\d+)\.', client.get("/docs/swagger-ui-bundle.js").text)[1] == "5"  # type: ignore[index]
