"""The life of a job, and the only writer of its status.

Every operation is one guarded UPDATE: it names the state it expects, and whoever lost a race changes nothing.
`attempt` is the fencing token: it grows at each claim, so that a worker which was taken for dead cannot write
over its successor. Each change moves `version` and writes its events in the same transaction, numbered
without a gap. Times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.catalog.spec import Resolved
from app.db.dialect import TERMINAL, db_now, now
from app.db.tables import Job, MetricPoint, ModelVersion
from app.errors import NotFound, Poison, StateConflict, shown
from app.services import models
from app.services.transitions import (
    PHASES,
    Note,
    change,
    end,
    ended,
    lost,
    owned_by,
    owner_change,
    owner_row,
)

BACKOFF_S = 5.0  # doubled with each failure

Json = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of a metric, at an optimizer step of a split (`train`, `validation`, `control`...)."""

    name: str
    split: str
    step: int
    value: float


@dataclass(frozen=True)
class Orders:
    """What a renewal brings back: what the user wants, and whether the job is past its deadline."""

    desired: str
    overdue: bool


# ---- what users do


def cancel(session: Session, project_id: str, job_id: str, mode: Literal["discard", "keep"]) -> Job:
    """Ends a waiting job at once; asks a running one to stop, with what it has learned dropped or kept.

    Raises NotFound, and StateConflict when the job has ended or is being discarded already.
    """
    named = select(Job).where(Job.id == job_id, Job.project_id == project_id).with_for_update()
    job = session.execute(named.execution_options(populate_existing=True)).scalar_one_or_none()
    if job is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    wish = "cancel" if mode == "discard" else "finish"
    if job.status in ("queued", "paused"):
        return _changed(session, job, ended("cancelled", "cancelled while it waited"), **end("cancelled"))
    if job.status == "running" and job.desired == wish:
        return job
    if job.status == "running" and job.desired != "cancel":
        asked = f"asked to {'stop' if mode == 'discard' else 'stop and keep the best so far'}"
        return _changed(session, job, [Note("job.status", asked, data={"desired": wish})], desired=wish)
    state = job.status if job.status in TERMINAL else "being cancelled"
    raise StateConflict(f"Job {job_id} is {state}: it cannot be cancelled with mode {mode!r} any more.")


def _changed(session: Session, job: Job, events: Sequence[Note], **values: Any) -> Job:
    """A job whose row is held already."""
    changed = change(session, job.id, Job.status == job.status, events=events, **values)
    assert changed is not None
    return changed


def remove(session: Session, project_id: str, job_id: str) -> None:
    """Deletes an ended job with its events and metrics; its model version stays.

    Raises NotFound, StateConflict.
    """
    gone = delete(Job).where(Job.id == job_id, Job.project_id == project_id, Job.status.in_(TERMINAL))
    if session.execute(gone.returning(Job.id)).first() is not None:
        return
    if session.execute(select(Job.id).where(Job.id == job_id, Job.project_id == project_id)).first() is None:
        raise NotFound(f"There is no job {shown(job_id)}.")
    raise StateConflict(f"Job {job_id} has not ended: cancel it first, then delete it.")


# ---- what supervisors do


def silent() -> list[ColumnElement[bool]]:
    """What makes a running job one that its worker has lost."""
    return [Job.status == "running", Job.lease_expires_at <= db_now()]


def renew(session: Session, job_id: str, attempt: int, lease_s: float) -> Orders:
    """Keeps the lease. Raises LeaseLost when it is over or another attempt has begun."""
    row = session.execute(
        update(Job)
        .where(*owned_by(job_id, attempt), Job.lease_expires_at > db_now())
        .values(lease_expires_at=db_now(lease_s))
        .returning(Job.desired, Job.deadline_at <= db_now())
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise lost(job_id, attempt)
    return Orders(desired=row[0], overdue=bool(row[1]))


def yield_(session: Session, job_id: str, attempt: int) -> None:
    """Hands a job back without penalty: this worker is going away. What its user wished meanwhile is done."""
    _give_back(
        session,
        owner_row(session, job_id, attempt),
        why="its worker is shutting down",
        crashed=False,
        limit=0,
    )


def crash(session: Session, job_id: str, attempt: int, why: str, max_no_progress: int) -> None:
    """The attempt's process died without a verdict: again with a growing delay, or poison."""
    _give_back(session, owner_row(session, job_id, attempt), why=why, crashed=True, limit=max_no_progress)


def cancelled(session: Session, job_id: str, attempt: int) -> None:
    """The attempt was stopped because its user discarded the job."""
    job = owner_row(session, job_id, attempt)
    owner_change(
        session,
        job_id,
        attempt,
        Job.desired == "cancel",
        events=[_attempt_ended(attempt), *ended("cancelled", "cancelled by its user")],
        phases=_closed(job, "cancelled"),
        **end("cancelled"),
    )


def reap(session: Session, max_no_progress: int) -> list[str]:
    """Takes back every running job whose lease is over, whoever held it; their ids."""
    over = select(Job).where(*silent()).order_by(Job.id).limit(100)
    jobs = list(session.execute(over.with_for_update(skip_locked=True)).scalars())
    for job in jobs:
        _give_back(session, job, why="its worker fell silent", crashed=True, limit=max_no_progress)
    return [job.id for job in jobs]


# ---- what the attempt's process does


def owned(session: Session, job_id: str, attempt: int) -> Job:
    """The job, if this attempt still owns it. Raises LeaseLost."""
    return owner_row(session, job_id, attempt)


def start_phase(session: Session, job_id: str, attempt: int, phase: str) -> None:
    job = owner_row(session, job_id, attempt)
    phases = _with_phase(job, phase, status="running", started_at=_stamp())
    owner_change(
        session,
        job_id,
        attempt,
        events=[Note("phase.started", f"{phase} started", phase=phase)],
        phases=phases,
    )


def end_phase(session: Session, job_id: str, attempt: int, phase: str) -> None:
    """Getting further than any attempt before is progress: the count of attempts without any starts over."""
    job = owner_row(session, job_id, attempt)
    done = PHASES.index(phase) + 1
    further = {"phases_done": done, "no_progress": 0} if done > job.phases_done else {}
    phases = _with_phase(job, phase, status="succeeded", progress=1.0, ended_at=_stamp())
    owner_change(
        session,
        job_id,
        attempt,
        events=[Note("phase.ended", f"{phase} ended", phase=phase)],
        phases=phases,
        **further,
    )


def report_progress(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    phase: str,
    fraction: float,
    progress: Json | None = None,
    best: Json | None = None,
    points: Sequence[Point] = (),
) -> None:
    """How far a phase is (0 to 1), with the metric points measured since the last report."""
    job = owner_row(session, job_id, attempt)
    seen = {**(job.progress if progress is None else progress), "heartbeat_at": _stamp()}
    told = Note(
        "phase.progress",
        f"{phase} {fraction:.0%}",
        phase=phase,
        data={"fraction": round(fraction, 4), **(progress or {})},
    )
    changed: Json = {"phases": _with_phase(job, phase, progress=round(fraction, 4)), "progress": seen}
    if best is not None:
        changed["best"] = best
    owner_change(session, job_id, attempt, events=[told], **changed)
    session.add_all(
        MetricPoint(job_id=job_id, name=p.name, split=p.split, step=p.step, value=p.value) for p in points
    )
    session.flush()


def note(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    type: str,
    level: Literal["info", "warning", "error"],
    phase: str | None,
    message: str,
    data: Json | None = None,
) -> None:
    """Tells an event that changes nothing else."""
    owner_change(session, job_id, attempt, events=[Note(type, message, level, phase, data or {})])


def adjust(session: Session, job_id: str, attempt: int, adjustments: Json, message: str) -> None:
    """Records what the attempt changed of the order, for itself and for later ones, and warns of it."""
    job = owner_row(session, job_id, attempt)
    told = Note("warning", message, "warning", _running_phase(job), {"kind": "adjusted", **adjustments})
    owner_change(session, job_id, attempt, events=[told], adjustments={**job.adjustments, **adjustments})


def succeed(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    checkpoint: "models.Checkpoint",
    manifest: str,
    artifacts: list[Json],
    outcome: Json,
    usage: Json,
) -> ModelVersion:
    """The model version and the job's end in one transaction; a cancellation that came first wins.

    manifest: the sha256 of the checkpoint's stored manifest. The alias stays where it is when a gate was not
    passed. Called again after a lost reply it answers what it did the first time.
    """
    before = session.get(Job, job_id, populate_existing=True)
    if before is not None and (before.status, before.attempt, before.result_manifest) == (
        "succeeded",
        attempt,
        manifest,
    ):
        return session.get_one(ModelVersion, before.output_version_id)
    job = owner_row(session, job_id, attempt)
    output = Resolved.model_validate(job.resolved).spec.output
    assert output.model is not None  # the plan fills it in
    alias = output.alias if all(gate["passed"] for gate in outcome.get("gates", ())) else None
    version = models.register(session, job.project_id, output.model, checkpoint, alias)
    done = Note(
        "job.ended", "succeeded", data={"status": "succeeded", "model": f"{output.model}@{version.version}"}
    )
    owner_change(
        session,
        job_id,
        attempt,
        Job.desired != "cancel",
        events=[
            Note("job.status", "succeeded", data={"status": "succeeded"}),
            _attempt_ended(attempt),
            done,
        ],
        output_version_id=version.id,
        result_manifest=manifest,
        artifacts=artifacts,
        outcome=outcome,
        usage=usage,
        **end("succeeded"),
    )
    return version


def fail(session: Session, job_id: str, attempt: int, error: Json) -> None:
    """error: problem details with phase, blame and attempt. A job discarded meanwhile ends as cancelled."""
    job = owner_row(session, job_id, attempt)
    if job.desired == "cancel":
        cancelled(session, job_id, attempt)
        return
    owner_change(
        session,
        job_id,
        attempt,
        events=[
            _attempt_ended(attempt),
            *ended("failed", error["detail"], "error", error.get("phase"), {"code": error["code"]}),
        ],
        error=error,
        phases=_closed(job, "failed"),
        **end("failed"),
    )


def _give_back(session: Session, job: Job, *, why: str, crashed: bool, limit: int) -> None:
    """Ends an attempt without a verdict: as its user wished, else queued again, else failed as poison."""
    attempt_ended = _attempt_ended(job.attempt, why)
    if job.desired in ("cancel", "finish"):
        message = (
            "cancelled by its user"
            if job.desired == "cancel"
            else f"stopped by its user, with nothing to keep: {why}"
        )
        owner_change(
            session,
            job.id,
            job.attempt,
            events=[attempt_ended, *ended("cancelled", message)],
            phases=_closed(job, "cancelled"),
            **end("cancelled"),
        )
    elif crashed and job.no_progress + 1 >= limit:
        error = _poison(job, why)
        owner_change(
            session,
            job.id,
            job.attempt,
            events=[
                attempt_ended,
                *ended("failed", error["detail"], "error", error["phase"], {"code": "poison"}),
            ],
            error=error,
            phases=_closed(job, "failed"),
            no_progress=job.no_progress + 1,
            failures=job.failures + 1,
            **end("failed"),
        )
    else:
        status = "paused" if job.desired == "pause" else "queued"
        owner_change(
            session,
            job.id,
            job.attempt,
            events=[attempt_ended, Note("job.status", status, data={"status": status})],
            status=status,
            lease_owner=None,
            lease_expires_at=None,
            available_at=db_now(BACKOFF_S * 2**job.no_progress if crashed else 0.0),
            no_progress=job.no_progress + crashed,
            failures=job.failures + crashed,
            interruptions=job.interruptions + (not crashed),
        )


def _poison(job: Job, why: str) -> Json:
    tries = job.no_progress + 1
    error = Poison(
        f"{tries} attempts ended without getting further: {why}. Ask the operator for the worker's log, "
        "or order a smaller batch or student, then submit the job again."
    )
    return {**error.body(), "phase": _running_phase(job), "blame": error.blame, "attempt": job.attempt}


def _running_phase(job: Job) -> str | None:
    return next((phase["name"] for phase in job.phases if phase["status"] == "running"), None)


def _attempt_ended(attempt: int, why: str | None = None) -> Note:
    data = {"attempt": attempt}
    if why is None:
        return Note("attempt.ended", f"attempt {attempt} ended", data=data)
    return Note("attempt.ended", f"attempt {attempt} ended: {why}", "warning", data=data)


def _closed(job: Job, status: str) -> list[Json]:
    """The phases of an ended job: the one that ran ends as the job does."""
    over = {"status": status, "ended_at": _stamp()}
    return [{**phase, **over} if phase["status"] == "running" else phase for phase in job.phases]


def _with_phase(job: Job, name: str, **changes: Any) -> list[Json]:
    return [{**phase, **changes} if phase["name"] == name else phase for phase in job.phases]


def _stamp() -> str:
    return now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
