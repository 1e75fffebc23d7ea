"""Jobs: planned, submitted, listed, watched, cancelled."""

import json
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from app import traces
from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.job_board import JobBoard, Look
from app.api.job_views import JobView, Status, render
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.catalog.spec import TASKS, JobSpec
from app.errors import Fault, Invalid, sentence
from app.failpoints import failpoint
from app.services import job_records, jobs, submission
from app.services.job_records import Filters, Record
from app.services.planning.plan import Plan, plan

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LABEL = "label."
MAX_LABELS = 32  # that a list is filtered by at once
_LABELS = {
    "name": f"{LABEL}{{key}}",
    "in": "query",
    "schema": {"type": "string"},
    "description": "jobs whose label KEY has this value; may stand several times, each with another KEY",
}
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="the same key gives the same job, for 24 hours"),
]


class Cancellation(BaseModel):
    """discard: stop and drop it. keep: stop training, then evaluate and export the best so far."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["discard", "keep"] = "discard"


@router.post("/plan")
def plan_job(spec: JobSpec, session: ReadSession, parts: PartsDep, principal: PrincipalDep) -> Plan:
    """What a job would be: its resolved spec, what was checked, its cost and the queue. Stores nothing."""
    return plan(session, parts.settings, principal.project_id, spec)


@router.post("", status_code=202, response_model=JobView)
def submit_job(
    spec: JobSpec, parts: PartsDep, principal: PrincipalDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Accepts a job. It is stored before this answers, and is carried out whatever crashes afterwards."""
    with traces.span("submit"), parts.sessions.write() as session:
        job = submission.submit(session, parts.settings, principal.project_id, spec, idempotency_key)
        record = job_records.submitted(session, job)
        failpoint("submit.before_commit")
    failpoint("submit.after_commit")
    with traces.span("ring"):
        parts.queue.ring(job.id, job.accelerator)
    failpoint("submit.after_ring")
    return accepted(record)


def filters(
    request: Request,
    status: Annotated[list[Status] | None, Query(description="one or several")] = None,
    task: Annotated[str | None, Query(max_length=64)] = None,
    model: Annotated[str | None, Query(max_length=200, description="used or made by the job")] = None,
    q: Annotated[str | None, Query(max_length=200, description="part of the name, or an id")] = None,
) -> Filters:
    """The query `label.KEY=VALUE` may stand several times. Raises Invalid for a task that there is not."""
    if task is not None and task not in TASKS:
        known = ", ".join(TASKS)
        raise Invalid(
            f"There is no such task; there are {known}.",
            Fault("/query/task", "unknown", "no such task", f"use {known}"),
        )
    given = request.query_params.multi_items()
    labels = {key.removeprefix(LABEL): value for key, value in given if key.startswith(LABEL)}
    if len(labels) > MAX_LABELS:
        detail = f"{len(labels)} labels are named, {MAX_LABELS} may be"
        raise Invalid(sentence(detail), Fault("/query/label.KEY", "too_many", detail, "leave some out"))
    return Filters(status=status or (), task=task, model=model, labels=labels, q=q)


@router.get("", response_model=Page[JobView], openapi_extra={"parameters": [_LABELS]})
def list_jobs(
    session: ReadSession,
    principal: PrincipalDep,
    filters: Annotated[Filters, Depends(filters)],
    after: After = None,
    limit: Limit = 50,
) -> Response:
    """Newest first."""
    before = read_cursor(after)
    found = job_records.list_(session, principal.project_id, filters, before, limit + 1)
    shown, more, following = cut(found, limit, lambda record: record.job.id)
    body = {"data": [render(record) for record in shown], "has_more": more, "next": following}
    return Response(json.dumps(body), media_type="application/json")


@router.get("/{job_id}", response_model=JobView, responses={304: {"description": "It has not changed"}})
async def get_job(
    job_id: str,
    request: Request,
    principal: PrincipalDep,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for a change")] = 0.0,
    version: Annotated[int | None, Query(ge=0, description="the version that is known already")] = None,
) -> Response:
    """The job as it stands; with `wait` and `version`, as soon as its version is another one.

    Without `version`, `wait` waits for the next change from now on. An ended job is answered at once.
    """
    board: JobBoard = request.app.state.board
    seen = await board.look(principal.project_id, job_id)
    known = seen.version if version is None else version
    if wait and seen.version == known and not seen.ended and await board.watcher.changed(job_id, known, wait):
        seen = await board.look(principal.project_id, job_id)
    headers = {"ETag": seen.etag}
    if request.headers.get("if-none-match") == seen.etag:
        return Response(status_code=304, headers=headers)
    return Response(seen.body, headers=headers, media_type="application/json")


@router.post("/{job_id}/cancel", status_code=202, response_model=JobView)
def cancel_job(
    job_id: str, session: WriteSession, principal: PrincipalDep, wish: Cancellation | None = None
) -> Response:
    """Ends a waiting job at once and asks a running one to stop; 409 when it has ended."""
    jobs.cancel(session, principal.project_id, job_id, (wish or Cancellation()).mode)
    return accepted(job_records.get(session, principal.project_id, job_id))


@router.delete("/{job_id}", status_code=204)
def delete_job(job_id: str, session: WriteSession, principal: PrincipalDep) -> None:
    """Forgets an ended job with its events and metrics; the model version that it made stays."""
    jobs.remove(session, principal.project_id, job_id)


def accepted(record: Record) -> Response:
    """202, with where the job is to be found."""
    look = Look.of(record)
    headers = {"ETag": look.etag, "Location": f"/v1/jobs/{record.job.id}"}
    return Response(look.body, 202, headers, media_type="application/json")
