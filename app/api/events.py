"""One stream of everything that happens in a project."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import Field

from app.api.dependencies import PartsDep, PrincipalDep
from app.api.job_results import BURST, KEEPALIVE_S, SSE
from app.api.job_views import EventView, render_event
from app.api.pages import Limit, Page
from app.ports.parts import Parts
from app.services import outbox
from app.services.outbox import Placed
from app.services.watch import Watcher
from app.services.webhooks import EventType

router = APIRouter(prefix="/v1/events", tags=["events"])


class ProjectEventView(EventView):
    place: int = Field(description="in the project's stream, counted from 1; give the last one to `after`")


@router.get("", response_model=Page[ProjectEventView], responses={200: {"content": {SSE: {}}}})
async def list_project_events(
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    after: Annotated[int, Query(ge=0, lt=2**62, description="the last `place` that is known")] = 0,
    limit: Limit = 100,
    type: Annotated[list[EventType] | None, Query(description="one or several; none: all")] = None,
    last_event_id: Annotated[
        int, Header(ge=0, lt=2**62, description="the same as after, of a stream that is taken up again")
    ] = 0,
) -> Response:
    """The events of all jobs in the order in which they became known. With `Accept: text/event-stream` it
    goes on for ever."""
    seen, types = max(after, last_event_id), tuple(type or ())
    if SSE in request.headers.get("accept", ""):
        stream = _stream(parts, request.app.state.watcher, principal.project_id, seen, types)
        return StreamingResponse(stream, media_type=SSE, headers={"Cache-Control": "no-store"})
    found = await run_in_threadpool(_read, parts, principal.project_id, seen, limit + 1, types)
    shown, more = found[:limit], len(found) > limit
    body = {
        "data": [_render(one) for one in shown],
        "has_more": more,
        "next": str(shown[-1].place) if more else None,
    }
    return Response(json.dumps(body), media_type="application/json")


def _render(placed: Placed) -> dict[str, object]:
    return {**render_event(placed.event), "place": placed.place}


def _read(
    parts: Parts, project_id: str, after: int, limit: int, types: tuple[EventType, ...]
) -> list[Placed]:
    with parts.sessions.read() as session:
        return outbox.stream(session, project_id, after, limit, types)


def _newest(parts: Parts, project_id: str) -> int:
    with parts.sessions.read() as session:
        return outbox.newest_place(session, project_id)


async def _stream(
    parts: Parts, watcher: Watcher, project_id: str, seen: int, types: tuple[EventType, ...]
) -> AsyncIterator[bytes]:
    while not watcher.stopped:
        newest = await run_in_threadpool(_newest, parts, project_id)  # before the events
        while found := await run_in_threadpool(_read, parts, project_id, seen, BURST, types):
            for one in found:
                data = json.dumps(_render(one))
                yield format_sse_event(data_str=data, event=one.event.type, id=str(one.place))
            seen = found[-1].place
        seen = max(seen, newest)  # of other types, and not to be looked at again
        if not await watcher.changed(project_id, newest, KEEPALIVE_S):
            yield format_sse_event(comment="still here")
