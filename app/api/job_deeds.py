"""What can be done with a job that is there: pause, resume, retry, clone; cancelling stands with the jobs."""

from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from app.api.dependencies import PartsDep, PrincipalDep, WriteSession
from app.api.faults import faults_in, summary
from app.api.job_views import JobView
from app.api.jobs import IdempotencyKey, accepted
from app.catalog.spec import JobSpec
from app.errors import InvalidSpec
from app.services import copies, job_records, jobs, submission

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


class Clone(BaseModel):
    """What is different."""

    model_config = ConfigDict(extra="forbid")

    overrides: dict[str, JsonValue] = Field(
        {},
        description="a JSON Merge Patch (RFC 7396) of the spec as it was sent: objects are merged, null "
        "takes a field away, lists and all else replace",
        examples=[{"training": {"epochs": 60}, "name": "twice as long"}],
    )


class Nothing(BaseModel):
    """What belongs to another deed, such as the overrides of a clone, is refused."""

    model_config = ConfigDict(extra="forbid")


def takes_nothing(body: Nothing | None = None) -> None:
    """Of routes that say all in their path."""


ALONE = [Depends(takes_nothing)]


@router.post("/pause", status_code=202, response_model=JobView, dependencies=ALONE)
def pause_job(job_id: str, session: WriteSession, principal: PrincipalDep) -> Response:
    """Sets a queued job aside at once. A running one saves a checkpoint and leaves its worker: `pausing`,
    then `paused`, with the rest of its `max_runtime_s` kept. 409 when it has ended or is being stopped."""
    jobs.pause(session, principal.project_id, job_id)
    return accepted(job_records.get(session, principal.project_id, job_id))


@router.post("/resume", status_code=202, response_model=JobView, dependencies=ALONE)
def resume_job(job_id: str, parts: PartsDep, principal: PrincipalDep) -> Response:
    """Queues a paused job again; it goes on from its last checkpoint. 409 when it is not paused."""
    with parts.sessions.write() as session:
        jobs.resume(session, principal.project_id, job_id)
        record = job_records.get(session, principal.project_id, job_id)
    parts.queue.ring(job_id, record.job.accelerator)
    return accepted(record)


@router.post("/retry", status_code=202, response_model=JobView, dependencies=ALONE)
def retry_job(
    job_id: str, parts: PartsDep, principal: PrincipalDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """A new job with the same order, pins included, that begins at the last checkpoint of this one: its
    `parent`. 409 unless this one failed or was cancelled."""
    with parts.sessions.write() as session:
        job = copies.retry(session, principal.project_id, job_id, idempotency_key)
        record = job_records.get(session, principal.project_id, job.id)
    parts.queue.ring(job.id, job.accelerator)
    return accepted(record)


@router.post("/clone", status_code=202, response_model=JobView)
def clone_job(
    job_id: str,
    parts: PartsDep,
    principal: PrincipalDep,
    change: Clone | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A new job by this one's spec as it was sent, with changes, planned anew: a bare name means the newest
    version as of now. It begins with nothing. Errors point into the changed spec."""
    with parts.sessions.write() as session:
        sent = copies.changed(session, principal.project_id, job_id, (change or Clone()).overrides)
        job = submission.submit(
            session,
            parts.settings,
            principal.project_id,
            _spec(sent),
            idempotency_key,
            parent_id=job_id,
        )
        record = job_records.get(session, principal.project_id, job.id)
    parts.queue.ring(job.id, job.accelerator)
    return accepted(record)


def _spec(sent: Any) -> JobSpec:
    """Raises InvalidSpec."""
    try:
        return JobSpec.model_validate(sent)
    except ValidationError as error:
        complaints = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        faults = faults_in(complaints, sent, JobSpec)
        raise InvalidSpec(summary(faults), *faults) from None
