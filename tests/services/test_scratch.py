"""What killed processes left in the scratch folder goes; what may be in use stays."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.tables import Project
from app.ports.parts import Parts
from app.services import claims, scratch
from app.settings import Settings
from app.wiring import assemble
from tests import orders


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    parts = assemble(settings)
    with parts.sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    yield parts
    parts.close()


def left(folder: Path, days: float, inner_days: float | None = None) -> Path:
    """A folder with a file in it, both last touched so long ago."""
    folder.mkdir(parents=True)
    (folder / "received-0").write_bytes(b"x")
    for path, age in ((folder / "received-0", days if inner_days is None else inner_days), (folder, days)):
        os.utime(path, (time.time() - age * 86_400,) * 2)
    return folder


def test_what_nobody_touched_for_a_day_is_swept(parts: Parts) -> None:
    work = parts.settings.work_dir
    old = [left(work / name, days=2) for name in ("upload-a", "jobs/job_1-1", "served/tmp1")]
    (work / "outgoing").mkdir()
    spooled = work / "outgoing" / "put-1"
    spooled.write_bytes(b"x")
    os.utime(spooled, (0, 0))
    used = [
        left(work / "upload-b", days=0.9),
        left(work / "upload-c", days=2, inner_days=0.1),
        left(work / "other", days=2),
    ]
    scratch.sweep(parts)
    assert not any(path.exists() for path in (*old, spooled))
    assert all(path.is_dir() for path in used)


def test_the_folder_of_an_attempt_that_runs_stays_however_old(parts: Parts) -> None:
    with parts.sessions.write() as session:
        job_id = orders.submit(session, parts.settings).id
        job = claims.claim(session, "a worker", ["cpu"], 60)
    assert job is not None
    running = left(scratch.attempt_folder(parts.settings, job_id, 1), days=9)
    earlier = left(scratch.attempt_folder(parts.settings, job_id, 0), days=9)
    scratch.sweep(parts)
    assert running.is_dir()
    assert not earlier.exists()


def test_a_scratch_folder_that_is_not_there_is_no_trouble(parts: Parts) -> None:
    scratch.sweep(parts)
