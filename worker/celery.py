"""The Celery application: one task of one line. Start it with

celery --app worker.celery worker --pool threads --without-gossip --without-mingle
"""

from contextlib import suppress
from typing import Any

from celery import Celery, signals
from kombu.entity import Queue

from app import traces
from app.db import migrate
from app.db.session import OUTAGES
from app.logs import configure_logs, warn_of_unknown_settings
from app.ports.queue import BROKER_MANNERS, QUEUES, TASK, LocalQueue
from app.services.supervise import Lookout, Supervisor
from app.services.workplace import Workplace
from app.settings import Settings
from app.wiring import assemble
from worker import metrics

settings = Settings()
parts = assemble(settings)
place, bell = Workplace(settings), LocalQueue()
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
    supervisor.work()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _check(**_: Any) -> None:
    """Jobs are written by the code that knows the schema; a database that is away is waited for later."""
    with suppress(*OUTAGES):
        if not migrate.is_current(parts.sessions.engine):
            raise SystemExit(f"stillhouse: {migrate.NOT_CURRENT}")


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    """Before there is a connection to the broker, for the slots find work without it."""
    configure_logs(settings)
    warn_of_unknown_settings()
    traces.start("stillhouse-worker")
    lookout.start()
    supervisor.start()
    metrics.serve(parts, place, lookout)  # last: where the port is taken, work goes on


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """Hands running jobs back at once; the warm shutdown then waits for the tasks to return."""
    supervisor.leave()
    lookout.stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    supervisor.stop()
    traces.stop()
