"""What a project may take at most. A quota is looked at where something is asked for, never at a job's end.

`max_parameters` bounds the plan, `max_queued_jobs` and `max_gpu_s` what is submitted, `max_bytes` what is
uploaded and submitted. `max_running_jobs` and `max_gpu_s` bound what services.claims hands to workers: those
that are over it wait, and what runs on a GPU goes back to wait.

Whoever asks while there is a quota holds the project's row, so that two cannot pass at once; who needs a
job's row as well takes it afterwards, or two of them might wait for each other.
"""

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Job, Project
from app.errors import Fault, QuotaExceeded
from app.services import usage
from app.settings import Settings

A_WHILE_S = 30  # until a queue may have moved


def tightened(session: Session, settings: Settings, project_id: str) -> Settings:
    """The settings, with the project's own limit of a student's size where it is lower."""
    own = session.get_one(Project, project_id).max_parameters
    if own is None or own >= settings.max_parameters:
        return settings
    return settings.model_copy(update={"max_parameters": own})


def hold(session: Session, project_id: str) -> Project:
    """The project; where it has a quota, nobody else asks until this transaction ends."""
    project = session.get_one(Project, project_id)
    if (project.max_queued_jobs, project.max_gpu_s, project.max_bytes) != (None, None, None):
        session.refresh(project, with_for_update={"key_share": True})
    return project


def admit_job(session: Session, project_id: str, accelerator: str) -> None:
    """Raises QuotaExceeded when the project may not have another job queued now."""
    for refusal in _refusals(session, hold(session, project_id), accelerator):
        raise refusal


def admit_bytes(session: Session, project_id: str, size: int) -> None:
    """Raises QuotaExceeded when the project may not store `size` bytes more."""
    project = hold(session, project_id)
    if project.max_bytes is None:
        return
    used = usage.stored(session, project_id).limited
    if used + size > project.max_bytes or used >= project.max_bytes:
        raise _no_room(used, size, project.max_bytes)


def refusals(session: Session, project_id: str, accelerator: str) -> list[QuotaExceeded]:
    """Why a job would not be accepted now, if anything; holds nothing."""
    return list(_refusals(session, session.get_one(Project, project_id), accelerator))


def without_gpu(session: Session) -> list[str]:
    """The projects whose GPU seconds of this month are used up."""
    limited = select(Project.id, Project.max_gpu_s).where(Project.max_gpu_s.is_not(None))
    most = {project_id: seconds for project_id, seconds in session.execute(limited) if seconds is not None}
    if not most:
        return []
    spent = usage.gpu_s_of_projects(session, list(most))
    return [project_id for project_id, seconds in most.items() if spent[project_id] >= seconds]


def jobs(session: Session, project_id: str, status: str) -> int:
    """How many there are."""
    count = select(func.count()).where(Job.project_id == project_id, Job.status == status)
    return session.scalar(count) or 0


def _refusals(session: Session, project: Project, accelerator: str) -> Iterator[QuotaExceeded]:
    if project.max_queued_jobs is not None:
        queued = jobs(session, project.id, "queued")
        if queued >= project.max_queued_jobs:
            detail = f"queued jobs of this project: {queued}, allowed: {project.max_queued_jobs}"
            fix = "wait until some have started, or cancel some"
            yield _refused(detail, "", fix, A_WHILE_S)
    if project.max_gpu_s is not None and accelerator != "cpu":
        spent = usage.gpu_s_this_month(session, project.id)
        if spent >= project.max_gpu_s:
            detail = (
                f"this project took {spent:,.0f} s of GPUs this month, {project.max_gpu_s:,.0f} are allowed"
            )
            fix = 'order resources.accelerator "cpu", or wait for the next month (UTC)'
            yield _refused(detail, "/resources/accelerator", fix, usage.seconds_left_of_month(session))
    if project.max_bytes is not None:
        used = usage.stored(session, project.id).limited
        if used >= project.max_bytes:
            yield _no_room(used, 0, project.max_bytes)


def _no_room(used: int, size: int, allowed: int) -> QuotaExceeded:
    more = f" and this would add {size:,}" if size else ""
    detail = f"this project stores {used:,} bytes{more}, {allowed:,} are allowed"
    fits = "delete datasets or jobs that nobody needs, or ask the operator for more"
    return _refused(detail, "", fits if size <= allowed else "send less, or ask the operator for more")


def _refused(detail: str, pointer: str, fix: str, retry_after_s: int | None = None) -> QuotaExceeded:
    fault = Fault(pointer, "quota_exceeded", detail, fix)
    return QuotaExceeded(f"A quota is used up: {detail}.", fault, retry_after_s=retry_after_s)
