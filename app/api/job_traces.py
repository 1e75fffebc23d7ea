"""What a job leaves behind while it works: its checkpoints, and the logs of its attempts."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from app.api.dependencies import PartsDep, PrincipalDep, ReadSession
from app.api.files import StoredFile, answer_file
from app.api.pages import Page
from app.services import attempt_logs, checkpoints

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

PLAIN = "text/plain; charset=utf-8"
_LOG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The log", "content": {"text/plain": {"schema": {"type": "string"}}}},
    206: {"description": "The part that Range asked for"},
    409: {"description": "The attempt has not ended"},
}


class CheckpointView(BaseModel):
    step: int = Field(description="optimizer steps of all trainings together")
    attempt: int = Field(description="that saved it; 0: it is the parent's")
    best: bool = Field(description="of those that are kept")
    size: int = Field(description="bytes")
    metrics: dict[str, Any]
    created_at: datetime


@router.get("/checkpoints")
def list_checkpoints(job_id: str, session: ReadSession, principal: PrincipalDep) -> Page[CheckpointView]:
    """Where the job can be taken up again, newest first: the last two places and the best one."""
    found = checkpoints.list_(session, principal.project_id, job_id)
    shown = [CheckpointView.model_validate(one, from_attributes=True) for one in found]
    return Page(data=shown, has_more=False, next=None)


@router.get("/logs", responses=_LOG, response_class=Response)
def get_log(
    job_id: str,
    request: Request,
    parts: PartsDep,
    principal: PrincipalDep,
    attempt: Annotated[
        int | None, Query(ge=1, lt=2**31, description="left out: the newest that has a log")
    ] = None,
) -> Response:
    """What an attempt's process said, its last 256 KiB, a moment after the attempt has ended: lines of
    events, without stacks, paths, addresses and keys, which only the operator's log has."""
    with parts.sessions.read() as session:
        found = attempt_logs.find(session, principal.project_id, job_id, attempt)
    name = f"{job_id}-attempt-{found.attempt}.log"
    return answer_file(request, parts.blobs, StoredFile(name, found.sha256, found.size, PLAIN))
