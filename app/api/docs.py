"""The description of this API, for machines and, at /docs, for people."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi(request: Request) -> dict[str, Any]:
    schema: dict[str, Any] = request.app.openapi()
    return schema


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Swagger UI, which the browser loads from its public CDN."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="Stillhouse")
