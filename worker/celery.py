"""The Celery application: one task of one line. Start it with

celery --app worker.celery worker --pool threads --without-gossip --without-mingle
"""

import threading
from contextlib import suppress
from typing import Any

from celery import Celery, signals
from kombu.entity import Queue

from app import traces
from app.db import migrate
from app.db.session import OUTAGES
from app.logs import configure_logs, warn_of_unknown_settings
from app.ports.queue import BROKER_MANNERS, QUEUES, TASK
from app.services import supervise
from app.services.layers import Surveyor
from app.services.porter import PARTING_S, Porters
from app.services.stumbling import survived
from app.services.workplace import Workplace
from app.settings import Settings
from app.wiring import assemble
from worker import metrics

settings = Settings()
parts = assemble(settings)
stopping = threading.Event()
place = Workplace(settings)
lookout = supervise.Lookout(parts, place)
surveyor = Surveyor(parts)
porters = Porters(parts)

celery = Celery("stillhouse", broker=settings.queue_url)
celery.conf.update(
    BROKER_MANNERS,
    task_queues=[Queue(name) for one in place.accelerators for name in QUEUES[one]],  # type: ignore[no-untyped-call]
    worker_concurrency=place.slots,
)


@celery.task(name=TASK)  # type: ignore[untyped-decorator]
def work(_job_id: str) -> None:
    """Carries out what is eligible. The id says who rang; the row says what to do."""
    with survived("slot"):
        supervise.work(parts, place, stopping)


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _check(**_: Any) -> None:
    """Jobs are written by the code that knows the schema; a database that is away is waited for later."""
    with suppress(*OUTAGES):
        if not migrate.is_current(parts.sessions.engine):
            raise SystemExit(f"stillhouse: {migrate.NOT_CURRENT}")


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    configure_logs(settings)
    warn_of_unknown_settings()
    traces.start("stillhouse-worker")
    lookout.start()
    surveyor.start()
    porters.start()
    metrics.serve(parts, place, lookout)  # last: where the port is taken, work goes on


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """Hands running jobs back at once; the warm shutdown then waits for the tasks to return."""
    stopping.set()
    surveyor.stop()
    porters.stop()
    lookout.stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    porters.end(PARTING_S)
    traces.stop()
