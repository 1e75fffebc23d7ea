"""A sweep's next step, which any process may take: read, work outside, then one guarded transaction.

Trials that ended are written down, hopeless ones are cancelled, new ones are submitted as ordinary jobs. The
sweep's row is held meanwhile and (sweep, number) is unique, so two who step at once never double a trial.
"""

import json
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import traces
from app.db.dialect import db_now
from app.db.tables import Sweep, SweepTrial
from app.errors import (
    Invalid,
    JobFailure,
    NotFound,
    NotMeasured,
    NoTrialSucceeded,
    QuotaExceeded,
    StateConflict,
)
from app.ports.parts import Parts
from app.services import jobs, quotas, search, submission
from app.services.stumbling import survived
from app.services.sweep_standing import Row, Standing, hopeless, look, points, tried
from app.settings import Settings

Json = dict[str, Any]
log = structlog.get_logger()


def advance(parts: Parts) -> None:
    """Every running sweep takes the step that it is due, if any."""
    with parts.sessions.read() as session:
        running = session.scalars(select(Sweep.id).where(Sweep.status == "running").order_by(Sweep.id)).all()
    for sweep_id in running:
        with survived("sweep", sweep_id=sweep_id):  # the others go on
            step(parts, sweep_id)


def step(parts: Parts, sweep_id: str) -> None:
    """Nothing where another process takes it just now."""
    with parts.sessions.read() as session:
        seen = look(session, sweep_id)
        pruned = hopeless(session, seen)
    if not (pruned or seen.is_due):
        return
    search.load()
    reports = {row.trial.number: _report(parts, row) for row in seen.succeeded_jobs}
    with parts.sessions.write() as session:
        held = select(Sweep).where(Sweep.id == sweep_id, Sweep.status == "running")
        if session.scalar(held.with_for_update(skip_locked=True)) is None:
            return
        standing = look(session, sweep_id)
        quotas.hold(session, standing.sweep.project_id)  # before any job's row
        submitted = _Step(session, parts.settings, standing).take(reports, pruned)
    for job_id in submitted:
        parts.queue.ring(job_id)


def _report(parts: Parts, row: Row) -> Json:
    """A succeeded job's report; {} where it is gone."""
    for artifact in row.artifacts:
        if artifact["name"] == "report.json":
            with suppress(NotFound):
                found: Json = json.loads(b"".join(parts.blobs.read(artifact["sha256"])))
                return found
    return {}


class _Step:
    """What changes, in a transaction that holds the sweep's row."""

    def __init__(self, session: Session, settings: Settings, seen: Standing) -> None:
        self._session, self._settings, self._seen = session, settings, seen
        self._sweep = seen.sweep

    def take(self, reports: dict[int, Json], pruned: dict[int, Json]) -> list[str]:
        """The ids of the jobs that were submitted."""
        self._sweep.metric = self._seen.metric
        for row in self._seen.rows:
            number = row.trial.number
            if row.over and (row.status != "succeeded" or number in reports):
                self._write_end(row, reports.get(number, {}))
            elif row.running and not row.over and number in pruned:
                self._prune(row, pruned[number])
        for row in self._seen.to_stop:
            self._stop(row, "discard" if self._seen.unwanted else "keep")
        submitted = self._begin_all()
        if not self._seen.running and not submitted and self._seen.room <= 0:
            self._end()
        self._sweep.version += 1
        self._session.flush()
        return submitted

    # ---- trials that end

    def _write_end(self, row: Row, report: Json) -> None:
        ended: Json = {"status": row.status or "cancelled", "error": row.error}
        if row.status == "succeeded":
            try:
                ended |= self._measured(row, report)
            except NotMeasured as error:
                ended = {"status": "failed", "error": _body(error)}
        _set(row.trial, ended)

    def _measured(self, row: Row, report: Json) -> Json:
        """What a trial's row says of a student that succeeded. Raises NotMeasured."""
        metric, best = self._sweep.metric or "", row.best or {}
        curve = dict(points(self._session, row, metric))
        value = best["value"] if best.get("metric") == metric else curve.get(best.get("step", -1))
        exports = report.get("exports", [])
        costs = {
            "bytes": max((file["size"] for one in exports for file in one["files"]), default=None),
            "latency_ms": min((ms for one in exports if (ms := _one_row_ms(one)) is not None), default=None),
        }
        against = self._seen.order.objective.against
        if value is None:
            raise NotMeasured(f"The job measured no {metric or 'metric'} on its validation rows.")
        if against in costs and costs[against] is None:
            raise NotMeasured(f"The job's report does not tell the {against} of its student.")
        return {"value": value, "curve": list(curve.values()), "report": _in_report(report, metric), **costs}

    def _prune(self, row: Row, why: Json) -> None:
        curve = [value for _, value in points(self._session, row, self._sweep.metric or "")]
        with suppress(StateConflict):  # it has just ended, and the next step reads how
            jobs.cancel(self._session, self._sweep.project_id, str(row.trial.job_id), "discard")
            measured = {"value": why["value"], "curve": curve[: why["epoch"]]}
            _set(row.trial, {"status": "pruned", "pruned": why, **measured})

    def _stop(self, row: Row, mode: Any) -> None:
        with suppress(StateConflict, NotFound):
            jobs.cancel(self._session, self._sweep.project_id, str(row.trial.job_id), mode)

    # ---- trials that begin

    def _begin_all(self) -> list[str]:
        """As many as there is room for; while a quota is used up, the others wait for a later step."""
        submitted: list[str] = []
        with suppress(QuotaExceeded):
            for _ in range(self._seen.room):
                submitted += self._begin()
        return submitted

    def _begin(self) -> list[str]:
        """One trial more, by its job's id; none when its spec was refused, which is a failed trial."""
        seen, number = self._seen, len(self._seen.rows)
        parameters = search.suggest(seen.order, [tried(seen, row) for row in seen.rows], seen.metric)
        assert parameters is not None  # there is room only while there are other values
        trial = SweepTrial(sweep_id=self._sweep.id, number=number, parameters=parameters)
        try:
            spec = seen.order.trial(self._sweep.id, number, parameters)
            # before the span, for a step that only waits is no failed trial
            quotas.admit_job(self._session, self._sweep.project_id, spec.resources.accelerator)
            with (
                traces.span("trial", self._sweep.traceparent, sweep_id=self._sweep.id, number=number),
                self._session.begin_nested(),
            ):
                job = submission.submit(self._session, self._settings, self._sweep.project_id, spec)
            trial.job_id, trial.student_parameters = job.id, job.resolved["parameters"]
        except Invalid as error:
            trial.status, trial.error, trial.ended_at = "failed", error.body(), db_now()
        self._session.add(trial)
        self._session.flush()
        self._session.refresh(trial)
        seen.rows.append(Row(trial, "queued", "run", 0, None, [], None))
        return [trial.job_id] if trial.job_id else []

    # ---- the end

    def _end(self) -> None:
        statuses = [row.trial.status for row in self._seen.rows]
        self._sweep.ended_at = db_now()
        if self._sweep.desired == "cancel":
            self._sweep.status = "cancelled"
        elif self._seen.lost or "succeeded" not in statuses:
            self._sweep.status, self._sweep.error = "failed", self._why()
        else:
            self._sweep.status = "succeeded"
        log.info("sweep ended", sweep_id=self._sweep.id, status=self._sweep.status)

    def _why(self) -> Json:
        """The first trial's own error, where one has failed."""
        for row in self._seen.rows:
            if row.trial.error is not None:
                return {**row.trial.error, "trial": row.trial.number}
        return _body(
            NoTrialSucceeded("The sweep ended before a trial had succeeded: give it more trials or hours.")
        )


def _set(trial: SweepTrial, ended: Json) -> None:
    """All at once, for what is half set might be flushed."""
    for name, value in {**ended, "ended_at": db_now()}.items():
        setattr(trial, name, value)


def _body(error: JobFailure) -> Json:
    return {**error.body(), "blame": error.blame}


def _one_row_ms(export: Json) -> float | None:
    """The median of a batch of one, of a file that was measured on the serving path."""
    if export.get("runtime") != "onnxruntime":
        return None
    return next((float(one["p50_ms"]) for one in export["latency"] if one["batch"] == 1), None)


def _in_report(report: Json, metric: str | None) -> Json | None:
    """What the report says of the student's metric, on rows that chose nothing."""
    for column in report.get("columns", []):
        if column["name"] == "student" and metric in column["metrics"]:
            told = column["metrics"][metric]
            interval = {part: told[part] for part in ("value", "low", "high")}
            return {"split": report["split"], "rows": column["n"], "metric": metric, **interval}
    return None
