"""The scratch folder. Who ends cleanly leaves nothing there; what killed processes left is swept later."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy import select

from app.db.tables import Job
from app.ports.parts import Parts
from app.settings import Settings

STALE_S = 86_400.0  # so long nothing in use goes untouched, but for an attempt's folder
_PLACES = ("upload-*", "jobs/*", "served/*", "outgoing/*", "imports/*")

log = structlog.get_logger()


def attempt_folder(settings: Settings, job_id: str, attempt: int) -> Path:
    """Where an attempt works."""
    return settings.work_dir / "jobs" / f"{job_id}-{attempt}"


def sweep(parts: Parts) -> None:
    """Removes what nothing touched for a day. Other processes may share the folder; what they use stays."""
    with parts.sessions.read() as session:
        running = session.execute(select(Job.id, Job.attempt).where(Job.status == "running")).all()
    used = {attempt_folder(parts.settings, *attempt) for attempt in running}
    limit = time.time() - STALE_S
    for path in [path for place in _PLACES for path in parts.settings.work_dir.glob(place)]:
        if path not in used and _touched(path) < limit:
            log.info("left-over scratch is swept", name=path.name)
            remove(path)


def remove(path: Path) -> None:
    """A file or a folder with all in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    """When anything in it changed last, in seconds of this machine's clock."""
    latest = 0.0
    for one in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # its owner took it away meanwhile
            latest = max(latest, one.lstat().st_mtime)
    return latest
