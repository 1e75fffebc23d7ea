"""Whether what a job asks of a worker can be had."""

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.catalog.spec import Resources
from app.db.tables import Job
from app.errors import Fault, InvalidSpec
from app.services import places, workers
from app.services.planning.checks import Checks

TRAINED_OVER = 1  # most devices that the engine trains over


class Queue(Frozen):
    """Where the job would stand now."""

    running: int = Field(description="jobs of the whole installation")
    ahead: int = Field(description="jobs that would be claimed before it, as things stand")
    served: bool = Field(description="whether a worker is there that could carry it out")


def check_devices(resources: Resources) -> None:
    """Raises InvalidSpec."""
    if resources.devices > TRAINED_OVER:
        detail = f"a job is trained over {TRAINED_OVER} device, not {resources.devices}"
        fix = f"order {TRAINED_OVER}"
        raise InvalidSpec(detail, Fault("/resources/devices", "too_many_devices", detail, fix))


def queue(session: Session, project_id: str, resources: Resources, checks: Checks) -> Queue:
    """Warns where the job would wait for a worker that is not there."""
    wanted = resources.accelerator, resources.devices
    missing = places.missing(workers.live(session), *wanted)
    if missing is not None:
        pointer = "/resources/accelerator" if resources.devices == 1 else "/resources/devices"
        detail = f"{missing}, so the job would wait until one comes"
        fix = "start a worker" if resources.accelerator == "auto" else "use auto, or start such a worker"
        checks.warn("workers", "no_worker", pointer, detail, fix)
    running = session.scalar(select(func.count()).select_from(Job).where(Job.status == "running"))
    ahead = places.ahead_of_new(session, project_id, resources.priority, *wanted)
    return Queue(running=running or 0, ahead=ahead, served=missing is None)
