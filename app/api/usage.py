"""What a project took and what it may take."""

import csv
import io
import json
from dataclasses import asdict, fields
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.dependencies import PrincipalDep, ReadSession
from app.api.moments import CalendarDay
from app.api.projects import Quotas
from app.db.dialect import now
from app.errors import Fault, Invalid, NotFound, shown
from app.services import projects, quotas, usage
from app.services.access import Principal
from app.services.usage import Bytes, Day

router = APIRouter(prefix="/v1/usage", tags=["usage"])
MOST_DAYS = 366


class Standing(BaseModel):
    """Now, to be compared with the limits."""

    queued_jobs: int
    running_jobs: int
    gpu_s_this_month: float = Field(description="attempts that run are included")
    bytes: Bytes
    limited_bytes: int = Field(description="datasets, models and artifacts, which max_bytes is about")


class UsageView(BaseModel):
    """days: those on which anything was taken. standing and limits: null where all projects are asked for."""

    days: list[Day]
    standing: Standing | None
    limits: Quotas | None


@router.get("", response_model=UsageView, responses={200: {"content": {"text/csv": {}}}})
def get_usage(
    request: Request,
    session: ReadSession,
    principal: PrincipalDep,
    first: Annotated[CalendarDay | None, Query(alias="from", description="left out: 30 days ago")] = None,
    last: Annotated[CalendarDay | None, Query(alias="to", description="included; left out: today")] = None,
    project: Annotated[
        str | None, Query(max_length=100, description="for the operator: another one, or `all`")
    ] = None,
    format: Annotated[Literal["json", "csv"] | None, Query(description="before the Accept header")] = None,
) -> Response:
    """Jobs, machine seconds and predictions by day (UTC); what is stored; the limits."""
    first, last = _days(first, last)
    whose = _whose(principal, project)
    found = usage.days(session, None if whose is None else [projects.get(session, whose).id], first, last)
    if (format or ("csv" if "text/csv" in request.headers.get("accept", "") else "json")) == "csv":
        return Response(_as_csv(found), media_type="text/csv")
    body: dict[str, Any] = {"days": [asdict(day) for day in found], "standing": None, "limits": None}
    if whose is not None:
        row = projects.get(session, whose)
        body["limits"] = {name: getattr(row, name) for name in projects.QUOTAS}
        body["standing"] = _standing(session, whose)
    return Response(json.dumps(body), media_type="application/json")


def _days(first: date | None, last: date | None) -> tuple[date, date]:
    """Raises Invalid."""
    last = last or now().date()
    first = first or last - timedelta(days=30)
    if not 0 <= (last - first).days < MOST_DAYS:
        fault = Fault("/query/from", "invalid_range", f"{first} to {last}", f"Ask for 1 to {MOST_DAYS} days.")
        raise Invalid("The days `from` and `to` do not make a range that can be answered.", fault)
    return first, last


def _whose(principal: Principal, project: str | None) -> str | None:
    """None: everybody's. Raises NotFound for another project's, who asks for it not being the operator."""
    if project is None or project == principal.project_id:
        return principal.project_id
    if not principal.is_operator:
        raise NotFound(f"There is no project {shown(project)}.")
    return None if project == "all" else project


def _standing(session: ReadSession, project_id: str) -> dict[str, Any]:
    stored = usage.stored(session, project_id)
    return {
        "queued_jobs": quotas.jobs(session, project_id, "queued"),
        "running_jobs": quotas.jobs(session, project_id, "running"),
        "gpu_s_this_month": round(usage.gpu_s_this_month(session, project_id), 3),
        "bytes": asdict(stored),
        "limited_bytes": stored.limited,
    }


def _as_csv(found: list[Day]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Day)])
    writer.writeheader()
    writer.writerows(asdict(day) for day in found)
    return text.getvalue()
