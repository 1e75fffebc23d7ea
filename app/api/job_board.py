"""What jobs look like just now, as bytes that are kept while they are true: most requests ask for that."""

import json
from dataclasses import dataclass
from zlib import crc32

from fastapi.concurrency import run_in_threadpool

from app.api.job_views import render
from app.ports.parts import Parts
from app.services import job_records
from app.services.job_records import Record
from app.services.watch import Watcher

MOST = 256  # jobs whose looks are kept


@dataclass(frozen=True)
class Look:
    """A job at one version, as the bytes that tell of it."""

    version: int
    ended: bool
    etag: str
    body: bytes

    @classmethod
    def of(cls, record: Record) -> "Look":
        """Why a queued job waits, and its place, change without its version, so they are part of the ETag."""
        job, waits = record.job, record.waiting
        line = "" if waits is None else f".{crc32(repr(waits).encode()):08x}"
        etag = f'"{job.version}{line}"'
        return cls(job.version, job.ended_at is not None, etag, json.dumps(render(record)).encode())


class JobBoard:
    """Asks the database for the version alone, and reads the rest when it has moved."""

    def __init__(self, parts: Parts, watcher: Watcher) -> None:
        self._parts, self.watcher = parts, watcher
        self._kept: dict[str, Look] = {}

    async def look(self, project_id: str, job_id: str) -> Look:
        """Raises NotFound."""
        standing = await self.watcher.standing(project_id, job_id)
        kept = self._kept.get(job_id)
        if kept is None or kept.version != standing.version or standing.status == "queued":
            kept = await run_in_threadpool(self._read, project_id, job_id)
            self._keep(job_id, kept)
        return kept

    def _read(self, project_id: str, job_id: str) -> Look:
        with self._parts.sessions.read() as session:
            return Look.of(job_records.get(session, project_id, job_id))

    def _keep(self, job_id: str, look: Look) -> None:
        self._kept.pop(job_id, None)
        self._kept[job_id] = look
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]
