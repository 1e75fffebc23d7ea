"""Jobs over digits in an installation of their own, whose trainers are started as a supervisor does it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.db.migrate import upgrade
from app.db.tables import Job, Project
from app.services import claims, jobs, scratch
from app.services.layers import OFFLINE
from app.settings import Settings
from app.wiring import assemble
from tests.worker.workshop import PROJECT, Workshop

LEASE_S, POLL_S = 3600.0, 0.01
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def installed(**changes: Any) -> Iterator[Workshop]:
    with TemporaryDirectory(prefix="stillhouse-bench-") as folder:
        places = {"database_url": f"sqlite:///{folder}/stillhouse.db", "blobs_url": f"file://{folder}/blobs"}
        settings = Settings.model_validate(
            {**places, "work_dir": Path(folder) / "work", "threads": 1, "log_format": "json", **changes}
        )
        upgrade(settings.database_url)
        parts = assemble(settings)
        with parts.sessions.write() as session:
            if session.get(Project, PROJECT) is None:
                session.add(Project(id=PROJECT, name="default"))
        yield Workshop(parts)
        parts.close()


@dataclass
class Trainer:
    """The process of one attempt."""

    workshop: Workshop
    job: Job

    def __post_init__(self) -> None:
        settings = self.workshop.parts.settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker", self.job.id, str(self.job.attempt)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=PATIENT | os.environ | OFFLINE | settings.environment(),
            start_new_session=True,
        )

    def trains(self) -> bool:
        """Waits until it does; False: it ended before."""
        while self._process.poll() is None:
            phases = {one["name"]: one["status"] for one in self.workshop.look(self.job).phases}
            if phases.get("train") != "pending":
                return True
            time.sleep(POLL_S)
        return False

    def ends(self) -> Job:
        """Waits until it does, as it must."""
        code = self._process.wait()
        assert code == 0, f"the trainer ended with {code}"
        return self.workshop.look(self.job)

    def is_killed(self) -> Job | None:
        """The job as a later attempt owns it; None: it had ended already."""
        if self._process.poll() is not None:
            return None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self.workshop.look(self.job).status != "running":
            return None
        parts = self.workshop.parts
        scratch.remove(scratch.attempt_folder(parts.settings, self.job.id, self.job.attempt))
        with parts.sessions.write() as session:
            jobs.yield_(session, self.job.id, self.job.attempt)
        with parts.sessions.write() as session:
            return claims.claim(session, "bench", ("cpu",), LEASE_S)
