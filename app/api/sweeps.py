"""Sweeps: planned, ordered, listed, watched, cancelled."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.job_board import JobBoard
from app.api.jobs import IdempotencyKey
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.api.sweep_views import (
    SweepStatus,
    SweepSummary,
    SweepView,
    TrialView,
    render,
    render_summary,
    render_trial,
)
from app.catalog.sweep import SweepSpec
from app.ports.parts import Parts
from app.services import sweep_plan, sweeps
from app.services.sweep_plan import SweepPlan
from app.services.sweeps import Filters

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])
NUMBER = r"\d{1,9}"


@router.post("/plan")
def plan_sweep(order: SweepSpec, session: ReadSession, parts: PartsDep, principal: PrincipalDep) -> SweepPlan:
    """What a sweep would be: what was checked and how many trials there are. Stores nothing."""
    return sweep_plan.plan(session, parts.settings, principal.project_id, order)


@router.post("", status_code=202, response_model=SweepView)
def submit_sweep(
    order: SweepSpec, parts: PartsDep, principal: PrincipalDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Accepts a search. Its trials are ordinary jobs, with the labels `sweep` and `trial`."""
    sweep_id = sweeps.submit(parts, principal.project_id, order, idempotency_key)
    return _answer(_seen(parts, principal.project_id, sweep_id))


def filters(
    status: Annotated[list[SweepStatus] | None, Query(description="one or several")] = None,
    q: Annotated[str | None, Query(max_length=200, description="part of the name, or an id")] = None,
) -> Filters:
    return Filters(status=status or (), q=q)


@router.get("", response_model=Page[SweepSummary])
def list_sweeps(
    session: ReadSession,
    principal: PrincipalDep,
    filters: Annotated[Filters, Depends(filters)],
    after: After = None,
    limit: Limit = 50,
) -> Response:
    """Newest first, without their answers."""
    found = sweeps.list_(session, principal.project_id, filters, read_cursor(after), limit + 1)
    shown, more, following = cut(found, limit, lambda counted: counted.sweep.id)
    return _json({"data": [render_summary(one) for one in shown], "has_more": more, "next": following})


@router.get("/{sweep_id}", response_model=SweepView, responses={304: {"description": "It has not changed"}})
async def get_sweep(
    sweep_id: str,
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for a change")] = 0.0,
    version: Annotated[int | None, Query(ge=0, description="the version that is known already")] = None,
) -> Response:
    """The sweep as it stands, with its front and its best trial so far; with `wait` as soon as it changes."""
    board: JobBoard = request.app.state.board
    seen = await run_in_threadpool(_seen, parts, principal.project_id, sweep_id)
    known = seen["version"] if version is None else version
    waits = wait and seen["version"] == known and not seen["terminal"]
    if waits and await board.watcher.changed(sweep_id, known, wait):
        seen = await run_in_threadpool(_seen, parts, principal.project_id, sweep_id)
    etag = _etag(seen)
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return _json(seen, headers={"ETag": etag})


@router.get("/{sweep_id}/trials", response_model=Page[TrialView])
def list_trials(
    sweep_id: str, session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Response:
    """In the order in which they began."""
    behind = int(read_cursor(after, NUMBER) or -1)
    found = sweeps.trials(session, principal.project_id, sweep_id, behind, limit + 1)
    shown, more, following = cut(found, limit, lambda trial: trial.number)
    return _json({"data": [render_trial(one) for one in shown], "has_more": more, "next": following})


@router.post("/{sweep_id}/cancel", status_code=202, response_model=SweepView)
def cancel_sweep(sweep_id: str, parts: PartsDep, principal: PrincipalDep) -> Response:
    """Asks a running sweep to end and its trials with it; 409 when it has ended."""
    with parts.sessions.write() as session:
        sweeps.cancel(session, principal.project_id, sweep_id)
    return _answer(_seen(parts, principal.project_id, sweep_id))


@router.delete("/{sweep_id}", status_code=204)
def delete_sweep(sweep_id: str, session: WriteSession, principal: PrincipalDep) -> None:
    """Forgets an ended sweep; the jobs of its trials and their students stay."""
    sweeps.remove(session, principal.project_id, sweep_id)


def _seen(parts: Parts, project_id: str, sweep_id: str) -> dict[str, Any]:
    with parts.sessions.read() as session:
        counted = sweeps.get(session, project_id, sweep_id)
        return render(counted, sweeps.trials(session, project_id, sweep_id))


def _answer(seen: dict[str, Any]) -> Response:
    """202, with where the sweep is to be found."""
    return _json(seen, 202, {"ETag": _etag(seen), "Location": f"/v1/sweeps/{seen['id']}"})


def _etag(seen: dict[str, Any]) -> str:
    return f'"{seen["version"]}"'


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, media_type="application/json")
