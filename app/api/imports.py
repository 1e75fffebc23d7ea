"""Imports: models and datasets on their way here from a hub or a bucket."""

import time
from asyncio import sleep
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.api.source_orders import ImportStatus, ImportView, answer
from app.db.dialect import TERMINAL
from app.db.tables import Import
from app.ports.parts import Parts
from app.services import import_orders

router = APIRouter(prefix="/v1/imports", tags=["imports"])
POLL_S = 0.5  # between two looks for a change


@router.get("")
def list_imports(
    session: ReadSession,
    principal: PrincipalDep,
    status: Annotated[list[ImportStatus] | None, Query(description="one or several")] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[ImportView]:
    """Newest first. POST /v1/models and POST /v1/datasets order them."""
    rows = import_orders.list_(
        session, principal.project_id, status=status or (), before=read_cursor(after), limit=limit + 1
    )
    shown, more, token = cut(rows, limit, lambda one: one.id)
    return Page(data=[ImportView.of(one) for one in shown], has_more=more, next=token)


@router.get("/{import_id}", response_model=ImportView, responses={304: {"description": "It has not changed"}})
async def get_import(
    import_id: str,
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for a change")] = 0.0,
    version: Annotated[int | None, Query(ge=0, description="the version that is known already")] = None,
) -> Response:
    """The import as it stands; with `wait` as soon as it changes."""
    until = time.monotonic() + wait
    one = await run_in_threadpool(_look, parts, principal.project_id, import_id)
    known = one.version if version is None else version
    while one.version == known and one.status not in TERMINAL and time.monotonic() < until:
        await sleep(POLL_S)
        one = await run_in_threadpool(_look, parts, principal.project_id, import_id)
    shown = answer(one)
    if request.headers.get("if-none-match") == shown.headers["etag"]:
        return Response(status_code=304, headers={"ETag": shown.headers["etag"]})
    return shown


@router.delete("/{import_id}")
def cancel_import(import_id: str, session: WriteSession, principal: PrincipalDep) -> ImportView:
    """Ends an import that has not ended; 409 when it has. What it made, and its record, stay."""
    return ImportView.of(import_orders.cancel(session, principal.project_id, import_id))


def _look(parts: Parts, project_id: str, import_id: str) -> Import:
    with parts.sessions.read() as session:
        return import_orders.get(session, project_id, import_id)
