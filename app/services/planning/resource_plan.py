"""Whether what a job asks of a worker can be had."""

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.catalog.spec import JobSpec, Resources
from app.db.tables import Job
from app.errors import Fault, InvalidSpec
from app.services import places, workers
from app.services.planning.checks import Checks

FEWEST_ROWS = 2  # of a batch on each device


class Queue(Frozen):
    """Where the job would stand now."""

    running: int = Field(description="jobs of the whole installation")
    ahead: int = Field(description="jobs that would be claimed before it, as things stand")
    served: bool = Field(description="whether a worker is there that could carry it out")


def check_devices(spec: JobSpec) -> None:
    """Whether every device has rows, and every loss can do with a part of them. Raises InvalidSpec."""
    devices, rows = spec.resources.devices, spec.training.batch_size
    if devices > 1 and rows < FEWEST_ROWS * devices:
        detail = f"batches of {rows} rows are too small for {devices} devices"
        fix = f"raise training.batch_size to {FEWEST_ROWS * devices} or more, or order fewer devices"
        raise InvalidSpec(detail, Fault("/resources/devices", "too_many_devices", detail, fix))
    remembering = [place for place, loss in enumerate(spec.terms()) if loss.remembers]
    if devices > 1 and remembering:
        kind = spec.terms()[remembering[0]].kind
        detail = (
            f"{kind} remembers every row that it has seen, and of {devices} devices each sees only its own"
        )
        fault = Fault(f"/losses/{remembering[0]}", "one_device", detail, "order one device, or another loss")
        raise InvalidSpec(detail, fault)


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
