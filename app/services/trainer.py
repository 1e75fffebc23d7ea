"""How a job's processes are started: one a device, in one group, with a pipe that ends them all."""

import os
import sys

from app import traces
from app.services.layers import OFFLINE
from app.services.workplace import Places
from app.settings import Settings

PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin make training seven times slower on busy cores
QUIET = {"KINETO_LOG_LEVEL": "99"}  # torch's profiler would tell of itself in the user's log


def command(job_id: str, attempt: int, places: Places) -> list[str]:
    """One process, or several that `worker.ranks` starts and holds together."""
    module = ["worker"] if places.count == 1 else ["worker.ranks", str(places.count)]
    return [sys.executable, "-m", *module, job_id, str(attempt)]


def environment(settings: Settings, places: Places) -> dict[str, str]:
    given = {**settings.without_secrets(os.environ), **OFFLINE, **settings.environment()}
    return PATIENT | QUIET | given | {"CUDA_VISIBLE_DEVICES": places.visible} | traces.for_children()
