"""What a job tells and leaves behind: events, metrics, its report and its artifacts."""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.dependencies import PartsDep, PrincipalDep, ReadSession
from app.api.files import DOWNLOAD, StoredFile, answer_file
from app.api.job_views import EventView, render_event, stamp
from app.api.pages import Limit, Page
from app.db.tables import Event, MetricPoint
from app.ports.parts import Parts
from app.services import job_records
from app.services.watch import Watcher

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

KEEPALIVE_S = 15.0
BURST = 200  # events read at once
SSE = "text/event-stream"


class PointView(BaseModel):
    step: int
    value: float
    at: datetime


class SeriesView(BaseModel):
    name: str
    split: str
    points: list[PointView]


class MetricsView(BaseModel):
    data: list[SeriesView]


class ArtifactView(BaseModel):
    name: str
    sha256: str
    size: int
    media_type: str


@router.get("/events", response_model=Page[EventView], responses={200: {"content": {SSE: {}}}})
async def list_events(
    job_id: str,
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    after: Annotated[int, Query(ge=0, lt=2**31, description="the last `seq` that is known")] = 0,
    limit: Limit = 100,
    last_event_id: Annotated[
        int, Header(ge=0, lt=2**31, description="the same, of a stream that is taken up again")
    ] = 0,
) -> Response:
    """What has happened, in order. With `Accept: text/event-stream` it goes on until the job has ended."""
    seen = max(after, last_event_id)  # a browser takes a stream up again with the URL that began it
    streaming = SSE in request.headers.get("accept", "")
    most = BURST if streaming else limit + 1
    found = await run_in_threadpool(_events, parts, principal.project_id, job_id, seen, most)
    if streaming:
        watcher: Watcher = request.app.state.watcher
        stream = _stream(parts, watcher, principal.project_id, job_id, seen)
        return StreamingResponse(stream, media_type=SSE, headers={"Cache-Control": "no-store"})
    shown, more = found[:limit], len(found) > limit
    body = {
        "data": [render_event(event) for event in shown],
        "has_more": more,
        "next": str(shown[-1].seq) if more else None,
    }
    return Response(json.dumps(body), media_type="application/json")


@router.get("/metrics", response_model=MetricsView, responses={200: {"content": {"text/csv": {}}}})
def list_metrics(
    job_id: str,
    request: Request,
    session: ReadSession,
    principal: PrincipalDep,
    name: Annotated[str | None, Query(max_length=64)] = None,
    split: Annotated[str | None, Query(max_length=32)] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000, description="of each series")] = 1000,
    format: Annotated[Literal["json", "csv"] | None, Query(description="before the Accept header")] = None,
) -> Response:
    """Losses and metrics by optimizer step; longer series are thinned evenly, their last point kept."""
    points = job_records.metrics(session, principal.project_id, job_id, name, split)
    kept = job_records.thinned(points, max_points)
    if (format or ("csv" if "text/csv" in request.headers.get("accept", "") else "json")) == "csv":
        return Response(_as_csv(kept), media_type="text/csv")
    return Response(json.dumps({"data": _as_series(kept)}), media_type="application/json")


@router.get("/report", responses={200: {"content": {"application/json": {}, "text/markdown": {}}}})
def get_report(
    job_id: str,
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    format: Annotated[
        Literal["json", "markdown"] | None, Query(description="before the Accept header")
    ] = None,
) -> Response:
    """The proof: teacher, control and student on the same rows, with intervals, sizes and latencies."""
    accepts_markdown = "text/markdown" in request.headers.get("accept", "")
    wanted = format or ("markdown" if accepts_markdown else "json")
    return _download(
        parts, request, principal.project_id, job_id, "report.md" if wanted == "markdown" else "report.json"
    )


@router.get("/rows", responses=DOWNLOAD, response_class=Response)
def get_rows(job_id: str, request: Request, parts: PartsDep, principal: PrincipalDep) -> Response:
    """The report's rows on which student and teacher part most, furthest first, with both their answers."""
    return _download(parts, request, principal.project_id, job_id, "rows.json")


@router.get("/artifacts")
def list_artifacts(job_id: str, session: ReadSession, principal: PrincipalDep) -> Page[ArtifactView]:
    """What the job left behind; the student's own files are its model version's."""
    found = job_records.get(session, principal.project_id, job_id).job.artifacts
    return Page(data=[ArtifactView(**one) for one in found], has_more=False, next=None)


@router.get("/artifacts/{name}", responses=DOWNLOAD, response_class=Response)
def download_artifact(
    job_id: str, name: str, request: Request, parts: PartsDep, principal: PrincipalDep
) -> Response:
    """The file, whole or in part."""
    return _download(parts, request, principal.project_id, job_id, name)


def _download(parts: Parts, request: Request, project_id: str, job_id: str, name: str) -> Response:
    with parts.sessions.read() as session:
        found = ArtifactView.model_validate(job_records.artifact(session, project_id, job_id, name))
    return answer_file(request, parts.blobs, StoredFile(**found.model_dump()))


def _events(parts: Parts, project_id: str, job_id: str, after: int, limit: int) -> list[Event]:
    with parts.sessions.read() as session:
        return job_records.events(session, project_id, job_id, after, limit)


async def _stream(
    parts: Parts, watcher: Watcher, project_id: str, job_id: str, seen: int
) -> AsyncIterator[bytes]:
    """Every event behind `seen` as it comes, a comment when nothing does, and the end after the job's own."""
    while True:
        version, over = await run_in_threadpool(_standing, parts, project_id, job_id)  # before the events
        while found := await run_in_threadpool(_events, parts, project_id, job_id, seen, BURST):
            for event in found:
                data = json.dumps(render_event(event))
                yield format_sse_event(data_str=data, event=event.type, id=str(event.seq))
            seen = found[-1].seq
        if over or watcher.stopped:
            return
        if not await watcher.changed(job_id, version, KEEPALIVE_S):
            yield format_sse_event(comment="still here")


def _standing(parts: Parts, project_id: str, job_id: str) -> tuple[int, bool]:
    with parts.sessions.read() as session:
        job = job_records.get(session, project_id, job_id).job
    return job.version, job.ended_at is not None


def _as_series(points: list[MetricPoint]) -> list[dict[str, object]]:
    series: dict[tuple[str, str], list[dict[str, object]]] = {}
    for point in points:
        shown: dict[str, object] = {"step": point.step, "value": point.value, "at": stamp(point.at)}
        series.setdefault((point.name, point.split), []).append(shown)
    return [{"name": name, "split": split, "points": found} for (name, split), found in series.items()]


def _as_csv(points: list[MetricPoint]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "split", "step", "value", "at"])
    writer.writerows([point.name, point.split, point.step, point.value, stamp(point.at)] for point in points)
    return text.getvalue()
