"""What an attempt's own process writes of its job, all of it under its fencing token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, delete, or_
from sqlalchemy.orm import Session

from app.catalog.spec import Resolved
from app.db.tables import Job, MetricPoint, ModelVersion
from app.services import leases, models, phases
from app.services.attempt_logs import tail
from app.services.transitions import (
    Note,
    attempt_ended,
    end,
    ended,
    owner_change,
    owner_row,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of a metric, at an optimizer step of a split (`train`, `validation`, `control`...)."""

    name: str
    split: str
    step: int
    value: float


def owned(session: Session, job_id: str, attempt: int) -> Job:
    """The job, if this attempt still owns it. Raises LeaseLost."""
    return owner_row(session, job_id, attempt)


def start_phase(session: Session, job_id: str, attempt: int, phase: str) -> None:
    job = owner_row(session, job_id, attempt)
    begun = phases.changed(job, phase, status="running", started_at=phases.stamp())
    owner_change(
        session,
        job_id,
        attempt,
        events=[Note("phase.started", f"{phase} started", phase=phase)],
        phases=begun,
    )


def end_phase(session: Session, job_id: str, attempt: int, phase: str) -> None:
    """Getting further than any attempt before is progress: the count of attempts without any starts over."""
    job = owner_row(session, job_id, attempt)
    done = phases.PHASES.index(phase) + 1
    further = {"phases_done": done, "no_progress": 0} if done > job.phases_done else {}
    passed = phases.changed(job, phase, status="succeeded", progress=1.0, ended_at=phases.stamp())
    took = {"seconds": phases.seconds(passed, phase)}
    owner_change(
        session,
        job_id,
        attempt,
        events=[Note("phase.ended", f"{phase} ended", phase=phase, data=took)],
        phases=passed,
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
    """How far a phase is (0 to 1), with the metric points measured since the last report; no event."""
    job = owner_row(session, job_id, attempt)
    seen = {**(job.progress if progress is None else progress), "heartbeat_at": phases.stamp()}
    changed: Json = {"phases": phases.changed(job, phase, progress=round(fraction, 4)), "progress": seen}
    if best is not None:
        changed["best"] = best
    owner_change(session, job_id, attempt, **changed)
    _write_points(session, job_id, points)


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
    told = Note("warning", message, "warning", phases.running(job), {"kind": "adjusted", **adjustments})
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
            attempt_ended(attempt),
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
        leases.cancelled(session, job_id, attempt)
        return
    owner_change(
        session,
        job_id,
        attempt,
        events=[
            attempt_ended(attempt),
            *ended("failed", error["detail"], "error", error.get("phase"), {"code": error["code"]}),
        ],
        error={**error, "log_tail": tail(session, job_id)},
        phases=phases.closed(job, "failed"),
        **end("failed"),
    )


def _write_points(session: Session, job_id: str, points: Sequence[Point]) -> None:
    """What an earlier attempt said of these series from here on is replaced."""
    first: dict[tuple[str, str], int] = {}
    for point in points:
        series = (point.name, point.split)
        first[series] = min(point.step, first.get(series, point.step))
    replaced = [
        and_(MetricPoint.name == name, MetricPoint.split == split, MetricPoint.step >= step)
        for (name, split), step in first.items()
    ]
    if replaced:
        session.execute(delete(MetricPoint).where(MetricPoint.job_id == job_id, or_(*replaced)))
    session.add_all(MetricPoint(job_id=job_id, **vars(point)) for point in points)
    session.flush()
