"""How a job looks.

`render` writes it by hand, since it is asked for most; `JobView` is its schema. A test holds them together.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.catalog.spec import JobSpec, Resolved
from app.db.dialect import TERMINAL
from app.db.tables import Event
from app.services.job_records import Record
from app.services.phases import PHASES
from app.services.places import Reason

Json = dict[str, Any]
Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
_STOPPING = {"pause": "pausing", "cancel": "cancelling", "finish": "cancelling"}


class Waiting(BaseModel):
    reason: Reason = Field(
        description="capacity: no slot is free; quota: its project runs as many as it may; "
        "preempted: its worker went away; retry: it is tried again after a while"
    )
    ahead: int | None = Field(
        description="queued jobs that would be claimed first, as things stand; null in the answer to a POST, "
        "which counts nothing"
    )
    detail: str | None = Field(description="what it needs and no worker has that is there")


class PhaseView(BaseModel):
    name: Literal[PHASES]  # type: ignore[valid-type]
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="0 to 1")
    started_at: datetime | None
    ended_at: datetime | None


class JobOutput(BaseModel):
    model: str = Field(description="NAME@VERSION, ready for /predict")
    version_id: str
    alias: str | None = Field(description="that was moved to it; null also where a gate was not passed")


class CheckpointMark(BaseModel):
    step: int = Field(description="optimizer steps of all trainings together, at which the job goes on")


class JobView(BaseModel):
    id: str
    object: Literal["job"]
    version: int = Field(description="moves at every change; give it to `?wait=` to hear of the next one")
    name: str
    labels: dict[str, str]
    parent: str | None = Field(description="the job that this one retries or is a clone of")
    status: Status | Literal["pausing", "cancelling"]
    terminal: bool = Field(description="whether the status is final")
    waiting: Waiting | None
    phases: list[PhaseView]
    progress: Json = Field(description="step, total_steps, epoch, samples_per_s, eta_s, heartbeat_at")
    best: Json | None = Field(description="metric, value and step of the best validation so far")
    checkpoint: CheckpointMark | None = Field(description="the newest one; a retry begins with its parent's")
    adjustments: Json = Field(
        description="what attempts changed to get on: lr_halvings, micro_batch_size; {} where nothing was"
    )
    spec: JobSpec = Field(description="as it was sent")
    resolved: Resolved
    spec_digest: str
    usage: Json
    outcome: Json | None
    output: JobOutput | None
    error: Json | None = Field(
        description="problem details with phase, blame, attempt and log_tail, the last events before the end"
    )
    attempts: int
    interruptions: int = Field(description="attempts that ended without the job's fault")
    failures: int = Field(description="attempts that crashed or whose worker fell silent")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: dict[str, str]


class EventView(BaseModel):
    id: str
    seq: int = Field(description="counts from 1 without a gap")
    job_id: str
    type: str
    level: Literal["info", "warning", "error"]
    at: datetime
    phase: str | None
    message: str
    data: Json


def render(record: Record) -> Json:
    """A job as JSON values, in the shape of JobView."""
    job = record.job
    link = f"/v1/jobs/{job.id}"
    links = {
        "self": link,
        **{
            part: f"{link}/{part}"
            for part in ("events", "metrics", "report", "rows", "artifacts", "checkpoints", "logs")
        },
    }
    return {
        "id": job.id,
        "object": "job",
        "version": job.version,
        "name": job.name,
        "labels": job.resolved["spec"]["labels"],
        "parent": job.parent_id,
        "status": _STOPPING.get(job.desired, job.status) if job.status == "running" else job.status,
        "terminal": job.status in TERMINAL,
        "waiting": None if record.waiting is None else vars(record.waiting),
        "phases": job.phases,
        "progress": job.progress,
        "best": job.best,
        "checkpoint": {"step": job.checkpoint_step} if job.checkpoint_step else None,
        "adjustments": job.adjustments,
        "spec": job.spec,
        "resolved": job.resolved,
        "spec_digest": job.spec_digest,
        "usage": job.usage,
        "outcome": job.outcome,
        "output": _output(record),
        "error": job.error,
        "attempts": job.attempt,
        "interruptions": job.interruptions,
        "failures": job.failures,
        "created_at": stamp(job.created_at),
        "started_at": stamp(job.started_at),
        "ended_at": stamp(job.ended_at),
        "links": links,
    }


def render_event(event: Event) -> Json:
    """An event as JSON values, in the shape of EventView."""
    return {
        "id": event.id,
        "seq": event.seq,
        "job_id": event.job_id,
        "type": event.type,
        "level": event.level,
        "at": stamp(event.at),
        "phase": event.phase,
        "message": event.message,
        "data": event.data,
    }


def stamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _output(record: Record) -> Json | None:
    if record.output_version is None:
        return None
    wanted, outcome = record.job.resolved["spec"]["output"], record.job.outcome or {}
    moved = all(gate["passed"] for gate in outcome.get("gates", ()))
    return {
        "model": f"{wanted['model']}@{record.output_version}",
        "version_id": record.job.output_version_id,
        "alias": wanted["alias"] if moved else None,
    }
