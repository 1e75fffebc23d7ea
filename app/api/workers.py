"""Workers: which are there, and which jobs of one's own they carry out."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.dependencies import PrincipalDep, ReadSession
from app.services import workers
from app.services.workers import Seen

router = APIRouter(prefix="/v1/workers", tags=["workers"])


class WorkerView(BaseModel):
    """A process that carries out jobs; whose machine it is on is for the operator to know."""

    id: str
    object: Literal["worker"] = "worker"
    status: Literal["ready", "leaving", "lost"] = Field(
        description="leaving: it claims nothing more; lost: it has said nothing for too long"
    )
    accelerators: list[str]
    devices: list[str] = Field(description="names of its GPUs")
    slots: int = Field(description="devices and jobs that it has room for at once")
    jobs: list[str] = Field(description="that it carries out now, of one's own project alone")
    version: str
    started_at: datetime
    seen_at: datetime


class WorkerList(BaseModel):
    data: list[WorkerView]
    has_more: Literal[False] = False
    next: None = None


@router.get("")
def list_workers(session: ReadSession, principal: PrincipalDep) -> WorkerList:
    """All of the installation, the oldest first; one that is lost is shown for an hour."""
    return WorkerList(data=[_view(seen) for seen in workers.list_(session, principal.project_id)])


def _view(seen: Seen) -> WorkerView:
    worker = seen.worker
    return WorkerView(
        id=worker.id,
        status=seen.status,
        accelerators=worker.accelerators,
        devices=worker.devices,
        slots=worker.slots,
        jobs=seen.jobs,
        version=worker.version,
        started_at=worker.started_at,
        seen_at=worker.seen_at,
    )
