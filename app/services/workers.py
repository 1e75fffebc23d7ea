"""Which workers are there: every process with slots says so again and again, by the database's clock."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Job, Worker
from app.services.workplace import Workplace

FORGOTTEN_S = 3600.0  # that a lost worker is still shown


@dataclass(frozen=True)
class Seen:
    """A worker as it is shown. jobs: the running ones of the project that asks."""

    worker: Worker
    status: Literal["ready", "leaving", "lost"]
    jobs: list[str]


def beat(session: Session, place: Workplace, lease_s: float) -> None:
    """This process is there, and stays so for `lease_s`. Rows of those long lost are swept."""
    now = {"seen_at": db_now(), "expires_at": db_now(lease_s)}
    known = update(Worker).where(Worker.id == place.id).values(now).returning(Worker.id)
    if session.scalar(known.execution_options(synchronize_session=False)) is None:
        session.add(
            Worker(
                id=place.id,
                host=place.host,
                version=version("stillhouse"),
                accelerators=list(place.accelerators),
                devices=[gpu.name for gpu in place.gpus],
                slots=place.slots,
                **now,
            )
        )
    left = Worker.leaving & (Worker.expires_at <= db_now())
    session.execute(delete(Worker).where(or_(left, Worker.expires_at <= db_now(-FORGOTTEN_S))))


def leave(session: Session, place: Workplace) -> None:
    """It claims nothing more, and hands back what it has."""
    session.execute(update(Worker).where(Worker.id == place.id).values(leaving=True))


def live(session: Session) -> list[Worker]:
    """Those that can be counted on to take jobs."""
    there = select(Worker).where(Worker.expires_at > db_now(), Worker.leaving.is_(False))
    return list(session.scalars(there.order_by(Worker.id)))


def list_(session: Session, project_id: str) -> list[Seen]:
    """The oldest first; lost ones, too, for an hour."""
    lost = Worker.expires_at <= db_now()
    shown = select(Worker, lost).where(or_(Worker.leaving.is_(False), ~lost))
    running: defaultdict[str, list[str]] = defaultdict(list)
    mine = select(Job.id, Job.lease_owner).where(Job.status == "running", Job.project_id == project_id)
    for job_id, owner in session.execute(mine.order_by(Job.id)):
        running[(owner or "").partition("/")[0]].append(job_id)
    return [
        Seen(worker, "lost" if is_lost else "leaving" if worker.leaving else "ready", running[worker.id])
        for worker, is_lost in session.execute(shown.order_by(Worker.id))
    ]


def most_slots(workers: Iterable[Worker], accelerator: str) -> int:
    """How many slots the largest of them could give to one job; 0: none offers the accelerator."""
    return max((_slots(worker, accelerator) for worker in workers), default=0)


def _slots(worker: Worker, accelerator: str) -> int:
    on_gpus = accelerator == "cuda" or (accelerator == "auto" and "cuda" in worker.accelerators)
    if accelerator not in ("auto", *worker.accelerators):
        return 0
    return len(worker.devices) if on_gpus else worker.slots
