"""One attempt at one job, in a process of its own, from the order to the registered student."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from app.db.tables import Job
from app.ports.parts import Parts
from app.services.scratch import attempt_folder
from worker.ends import Left
from worker.engine.checkpoint import Stop
from worker.engine.export import export
from worker.engine.fetch import fetch
from worker.engine.judging.evaluate import evaluate
from worker.engine.preflight import preflight
from worker.engine.ranks import Meeting, met
from worker.engine.register import register
from worker.engine.signals import signals
from worker.engine.train import train
from worker.engine.validate import validate
from worker.journal import Journal, Silent


def run(job: Job, attempt: int, parts: Parts, stop: Stop, meeting: Meeting | None = None) -> None:
    """Raises a StillhouseError that says why the job failed, LeaseLost when another attempt owns it, and Left
    when this one was asked to go."""
    journal = Journal(parts.sessions, job.id, attempt)

    def phase(name: str) -> AbstractContextManager[None]:
        if stop.leave.is_set():
            raise Left
        return journal.phase(name)

    with _workplace(attempt_folder(parts.settings, job.id, attempt)) as folder:
        with phase("validate"):
            order = validate(job, folder, parts, journal)
        with phase("fetch"):
            material = fetch(order)
        with phase("preflight"):
            preflight(order, material)
        with phase("signals"):
            answers = signals(order, material)
        with phase("train"), met(order.device.on, meeting) as ranks:
            taught = train(order, material, answers, stop, ranks)
        with phase("evaluate"):
            findings = evaluate(order, material, answers, taught)
        with phase("export"):
            exported = export(order, material, findings.student)
        with phase("register"):
            result = register(order, material, taught, findings, exported)
        journal.succeed(result.checkpoint, result.manifest, result.artifacts, result.outcome, result.usage)


def follow(job: Job, attempt: int, parts: Parts, meeting: Meeting, stop: Stop) -> None:
    """The part of another rank: it begins where rank 0 begins to train, works in a folder of that one's, and
    writes nothing. stop: nobody tells it anything, for rank 0 passes on what matters."""
    own = attempt_folder(parts.settings, job.id, attempt) / f"rank-{meeting[0]}"
    order = validate(job, own, parts, Silent(parts.sessions, job.id, attempt))
    with met(order.device.on, meeting) as ranks:
        own.mkdir()
        material = fetch(order)
        train(order, material, signals(order, material), stop, ranks)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A fresh folder for this attempt, which goes with it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
