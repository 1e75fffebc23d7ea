"""What one attempt says of itself while it works, all of it under its fencing token."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from sqlalchemy.orm import Session

from app import traces
from app.db.session import Sessions
from app.db.tables import JobCheckpoint
from app.failpoints import failpoint
from app.services import checkpoints, hops, jobs
from app.services.hops import Hop
from app.services.jobs import Json, Point
from app.services.models import Checkpoint

WRITE_S = 1.0  # between two writes of progress; points wait that long
TELL_S, TELL_SHARE = 10.0, 0.01  # of a phase: what must have gone by, both, before an event tells it again

log = structlog.get_logger()


class Journal:
    """Raises LeaseLost from whatever it writes once another attempt owns the job."""

    def __init__(
        self, sessions: Sessions, job_id: str, attempt: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions, self._job_id, self._attempt, self._clock = sessions, job_id, attempt, clock
        self._phase, self._due, self._fraction = "", 0.0, 0.0
        self._told: tuple[float, float] | None = None  # fraction and time of the phase's last event
        self._best: Json | None = None
        self._points: dict[tuple[str, str, int], Point] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase that fails is left open: the job's end closes it."""
        with self._sessions.write() as session:
            jobs.start_phase(session, self._job_id, self._attempt, name)
        self._phase, self._due, self._fraction, self._told = name, 0.0, 0.0, None
        log.info("phase started", phase=name)
        failpoint(f"{name}.started")
        with traces.span(name):
            yield
        if self._points or self._best:
            self._write(1.0)
        failpoint(f"{name}.ending")
        with self._sessions.write() as session:
            jobs.end_phase(session, self._job_id, self._attempt, name)

    def due(self) -> bool:
        """Whether progress would be written now."""
        return self._clock() >= self._due

    def progress(self, fraction: float, **progress: Any) -> None:
        """How far the phase is, 0 to 1; what comes between two writes is forgotten."""
        self._fraction = fraction
        if self.due():
            self._write(fraction, progress or None)

    def points(self, split: str, step: int, values: dict[str, float]) -> None:
        """Metric points, written with the next progress or at the phase's end. Where training went back, the
        later ones of a step count."""
        self._points |= {(name, split, step): Point(name, split, step, one) for name, one in values.items()}

    def best(self, metric: str, value: float, step: int) -> None:
        """Written when the points are."""
        self._best = {"metric": metric, "value": value, "step": step}

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

    def checkpoint(
        self,
        *,
        step: int,
        manifest: str,
        size: int,
        best: bool,
        metrics: Mapping[str, float],
        seconds: float = 0.0,
        void: Sequence[str] = (),
    ) -> None:
        """A later attempt goes on from here, so all that was measured before is written with it."""
        with self._sessions.write() as session:
            if self._points or self._best:
                self._report(session, self._fraction)
            checkpoints.save(
                session,
                self._job_id,
                self._attempt,
                step=step,
                manifest=manifest,
                size=size,
                best=best,
                metrics=dict(metrics),
                seconds=seconds,
                void=void,
            )
            failpoint("checkpoint.before_commit")
        failpoint("checkpoint.after_commit")
        self._points, self._best = {}, None
        log.info("checkpoint saved", step=step, size=size)

    def checkpoints(self) -> list[JobCheckpoint]:
        """The newest one first."""
        with self._sessions.read() as session:
            return list(checkpoints.newest_first(session, self._job_id))

    def adjust(self, adjustments: Json, message: str) -> None:
        """What this job changes of its order from now on; a warning says why."""
        with self._sessions.write() as session:
            jobs.adjust(session, self._job_id, self._attempt, adjustments, message)
        log.warning(message, phase=self._phase, **adjustments)

    def finish_hop(self, output: str, hop: Hop) -> None:
        """Students on the way are model versions from here on. output: the model that the job's own joins."""
        with self._sessions.write() as session:
            hops.finish(session, self._job_id, self._attempt, output, hop)
        log.info("hop finished", students=list(hop.students))

    def succeed(
        self, checkpoint: Checkpoint, manifest: str, artifacts: list[Json], outcome: Json, usage: Json
    ) -> None:
        """The last transaction: the model version is there and the job has ended."""
        traces.flush()
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
            failpoint("succeed.before_commit")
        failpoint("succeed.after_commit")
        log.info("succeeded", version=version.id)

    def _write(self, fraction: float, progress: Json | None = None) -> None:
        with self._sessions.write() as session:
            self._report(session, fraction, progress)
        self._points, self._best, self._due = {}, None, self._clock() + WRITE_S

    def _report(self, session: Session, fraction: float, progress: Json | None = None) -> None:
        jobs.report_progress(
            session,
            self._job_id,
            self._attempt,
            phase=self._phase,
            fraction=fraction,
            progress=progress,
            best=self._best,
            points=[*self._points.values()],
        )
        if self._tells(fraction):
            jobs.note(
                session,
                self._job_id,
                self._attempt,
                type="phase.progress",
                level="info",
                phase=self._phase,
                message=f"{self._phase} {fraction:.0%}",
                data={"fraction": round(fraction, 4), **(progress or {})},
            )
            self._told = fraction, self._clock()

    def _tells(self, fraction: float) -> bool:
        """The first of a phase, and some hundred more: a job of weeks has no more events than others."""
        if self._told is None:
            return True
        before, at = self._told
        return abs(fraction - before) >= TELL_SHARE and self._clock() - at >= TELL_S


class Silent(Journal):
    """Of a rank that follows: it reads as the others do, and writes nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield

    def due(self) -> bool:
        return False

    def note(
        self, message: str, type: str = "log", level: Literal["info", "warning"] = "info", **data: Any
    ) -> None: ...

    def checkpoint(
        self,
        *,
        step: int,
        manifest: str,
        size: int,
        best: bool,
        metrics: Mapping[str, float],
        seconds: float = 0.0,
        void: Sequence[str] = (),
    ) -> None: ...

    def adjust(self, adjustments: Json, message: str) -> None: ...

    def finish_hop(self, output: str, hop: Hop) -> None: ...
