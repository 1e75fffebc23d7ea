"""What one attempt says of itself while it works, all of it under its fencing token."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from app.db.session import Sessions
from app.services import jobs
from app.services.jobs import Json, Point
from app.services.models import Checkpoint

WRITE_S = 1.0  # between two writes of progress; points wait that long

log = structlog.get_logger()


class Journal:
    """Raises LeaseLost from whatever it writes once another attempt owns the job."""

    def __init__(
        self, sessions: Sessions, job_id: str, attempt: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions, self._job_id, self._attempt, self._clock = sessions, job_id, attempt, clock
        self._phase, self._due = "", 0.0
        self._told: dict[str, Any] = {"fraction": 0.0}
        self._points: list[Point] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase that fails is left open: the job's end closes it."""
        with self._sessions.write() as session:
            jobs.start_phase(session, self._job_id, self._attempt, name)
        self._phase, self._told, self._due = name, {"fraction": 0.0}, 0.0
        log.info("phase started", phase=name)
        yield
        self._write()
        with self._sessions.write() as session:
            jobs.end_phase(session, self._job_id, self._attempt, name)

    def due(self) -> bool:
        """Whether progress would be written now."""
        return self._clock() >= self._due

    def progress(self, fraction: float, **progress: Any) -> None:
        """How far the phase is, 0 to 1; what comes between two writes is forgotten."""
        if not self.due():
            return
        self._told["fraction"] = fraction
        if progress:
            self._told["progress"] = progress
        self._write()

    def points(self, split: str, step: int, values: dict[str, float]) -> None:
        """Metric points, written with the next progress."""
        self._points += [Point(name, split, step, value) for name, value in values.items()]

    def best(self, metric: str, value: float, step: int) -> None:
        self._told["best"] = {"metric": metric, "value": value, "step": step}

    def note(
        self, message: str, type: str = "log", level: Literal["info", "warning"] = "info", **data: Any
    ) -> None:
        """An event of its own, written at once."""
        with self._sessions.write() as session:
            jobs.note(
                session,
                self._job_id,
                self._attempt,
                type=type,
                level=level,
                phase=self._phase,
                message=message,
                data=data,
            )
        log.info(message, phase=self._phase, **data)

    def warn(self, kind: str, message: str, **data: Any) -> None:
        """A diagnosis with a suggestion."""
        self.note(message, "warning", "warning", kind=kind, **data)

    def succeed(
        self, checkpoint: Checkpoint, manifest: str, artifacts: list[Json], outcome: Json, usage: Json
    ) -> None:
        """The last transaction: the model version is there and the job has ended."""
        with self._sessions.write() as session:
            version = jobs.succeed(
                session,
                self._job_id,
                self._attempt,
                checkpoint=checkpoint,
                manifest=manifest,
                artifacts=artifacts,
                outcome=outcome,
                usage=usage,
            )
        log.info("succeeded", version=version.id)

    def _write(self) -> None:
        if self._told["fraction"] == 0.0 and not self._points and len(self._told) == 1:
            return  # nothing to say
        with self._sessions.write() as session:
            jobs.report_progress(
                session, self._job_id, self._attempt, phase=self._phase, points=self._points, **self._told
            )
        self._points, self._due = [], self._clock() + WRITE_S
