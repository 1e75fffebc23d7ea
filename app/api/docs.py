"""The description of this API, for machines and, at /docs, for people."""

import base64
import hashlib
import re
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

router = APIRouter(include_in_schema=False)
public = True  # a browser cannot send a key with the page, and it says nothing of anybody's work


@router.get("/openapi.json")
def openapi(request: Request) -> dict[str, Any]:
    schema: dict[str, Any] = request.app.openapi()
    if request.app.state.parts.settings.bootstrap_key is None:
        return schema
    components = schema["components"] | {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    return schema | {"components": components, "security": [{"key": []}]}


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Swagger UI, all of it from here: it works where there is no internet."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Stillhouse",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body).decode())
    return page


@router.get("/docs/{name}")
def docs_file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]) -> FileResponse:
    return FileResponse(_folder() / name)


def _policy(page: str) -> str:
    """Scripts from here, and those that stand in the page as it was written, by their digests."""
    written = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in written]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _folder() -> Path:
    """Of Swagger UI within the package that carries it, of which nothing is imported."""
    return Path(str(distribution("fastapi-offline").locate_file("fastapi_offline/static")))
