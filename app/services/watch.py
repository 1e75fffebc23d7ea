"""Who waits for a job to change: one look at the database, twice a second, for all of them."""

import asyncio
from collections import defaultdict
from contextlib import suppress

import structlog
from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Job

INTERVAL_S = 0.5
MOST_AT_ONCE = 500  # ids in one query

log = structlog.get_logger()


class Watcher:
    """Wakes coroutines when the `version` of a job moves; a thousand of them hold no thread."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: dict[str, set[tuple[int, asyncio.Event]]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Wakes everybody and ends."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for waiters in self._waiting.values():
            for _, event in waiters:
                event.set()

    async def changed(self, job_id: str, version: int, timeout_s: float) -> bool:
        """Waits until the job has another version, or is gone; False: nothing happened in time."""
        waiter = (version, asyncio.Event())
        self._waiting[job_id].add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1].wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting[job_id].discard(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._waiting:
                continue
            try:
                self._wake(await asyncio.to_thread(self._versions, list(self._waiting)))
            except Exception:
                log.exception("the watcher could not look")

    def _versions(self, job_ids: list[str]) -> dict[str, int | None]:
        versions: dict[str, int | None] = dict.fromkeys(job_ids)
        with self._sessions.read() as session:
            for start in range(0, len(job_ids), MOST_AT_ONCE):
                part = job_ids[start : start + MOST_AT_ONCE]
                for job_id, version in session.execute(select(Job.id, Job.version).where(Job.id.in_(part))):
                    versions[job_id] = version
        return versions

    def _wake(self, versions: dict[str, int | None]) -> None:
        for job_id, version in versions.items():
            for seen, event in self._waiting.get(job_id, ()):
                if seen != version:
                    event.set()
