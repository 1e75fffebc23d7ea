"""The Celery application: one task of one line. Start it with

celery --app worker.celery worker --pool threads --without-gossip --without-mingle
"""

from contextlib import suppress
from typing import Any

import structlog
from celery import Celery, bootsteps, signals
from kombu.entity import Queue

from app import traces
from app.commands import REFUSALS, refused
from app.db import migrate
from app.db.session import OUTAGES
from app.errors import Misconfigured
from app.logs import configure_logs, warn_of_unknown_settings
from app.ports.queue import BROKER_MANNERS, QUEUES, TASK, LocalQueue
from app.services.supervise import Lookout, Supervisor
from app.services.workplace import Workplace
from app.settings import Settings
from app.wiring import assemble
from worker import metrics

log = structlog.get_logger()

try:
    settings = Settings()
    parts = assemble(settings)
    if isinstance(parts.queue, LocalQueue):
        raise Misconfigured(
            "A worker listens to a broker: name it in STILLHOUSE_QUEUE_URL, as in redis://127.0.0.1:6379/0. "
            "With local:// the API carries out its jobs itself."
        )
    place, bell = Workplace(settings), LocalQueue()
except REFUSALS as error:
    raise SystemExit(refused(error)) from None
lookout, supervisor = Lookout(parts, place, bell), Supervisor(parts, place, bell)

celery = Celery("stillhouse", broker=settings.queue_url)
celery.conf.update(
    BROKER_MANNERS,
    task_queues=[Queue(name) for one in place.accelerators for name in QUEUES[one]],  # type: ignore[no-untyped-call]
    worker_concurrency=place.slots,
)


@celery.task(name=TASK)  # type: ignore[untyped-decorator]
def work(_job_id: str) -> None:
    """Carries out what is eligible. The id says who rang; the row says what to do."""
    supervisor.work_when_free()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _check(**_: Any) -> None:
    """Jobs are written by the code that knows the schema; a database that is away is waited for later."""
    with suppress(*OUTAGES):
        if not migrate.is_current(parts.sessions.engine):
            raise SystemExit(refused(Misconfigured(migrate.NOT_CURRENT)))


class Slots(bootsteps.StartStopStep):  # type: ignore[misc]
    """They stand up once signals have their handlers, and before the broker is called, for they find work
    without it. However the worker ends, jobs are handed back first."""

    requires = ("celery.worker.components:Pool",)

    def start(self, _worker: Any) -> None:
        configure_logs(settings)
        warn_of_unknown_settings()
        traces.start("stillhouse-worker")
        try:
            metrics.serve(parts, place, lookout)
        except OSError as error:
            log.error(
                "STILLHOUSE_METRICS_PORT cannot be had, so nobody can ask for metrics",
                port=settings.metrics_port, why=error.strerror,
            )  # fmt: skip
        lookout.start()
        supervisor.start()

    def close(self, _worker: Any) -> None:
        leave()

    def stop(self, _worker: Any) -> None:
        supervisor.stop()
        traces.stop()

    terminate = stop


celery.steps["worker"].add(Slots)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _tell(**_: Any) -> None:
    """Each time, for Celery itself says only that the broker is away."""
    log.info("the broker answers")


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def leave(**_: Any) -> None:
    """At the signal, for the consumer hears of it between two calls to the broker."""
    supervisor.leave()
    lookout.stop()
