"""Who asks how a job stands, or waits for it or a sweep to change: one look at the database for all."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy import bindparam, select

from app.db.session import Sessions
from app.db.tables import Job, Project, Sweep
from app.errors import NotFound, shown

INTERVAL_S = 0.5
MOST_AT_ONCE = 500  # ids in one query

log = structlog.get_logger()


@dataclass(frozen=True)
class Standing:
    """As much of a job's row as says whether the rest has to be read."""

    id: str
    project_id: str
    version: int
    status: str


class Watcher:
    """Wakes coroutines when the `version` of a job moves; a thousand of them hold no thread."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._asked: set[str] = set()
        self._next: asyncio.Task[dict[str, Standing]] | None = None
        self._turn = asyncio.Lock()
        self._waiting: dict[str, set[tuple[int, asyncio.Event]]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self.stopped = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Wakes everybody and ends."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for waiters in self._waiting.values():
            for _, event in waiters:
                event.set()

    async def standing(self, project_id: str, job_id: str) -> Standing:
        """How the job stands now. All who ask while one query runs share the next. Raises NotFound."""
        self._asked.add(job_id)
        if self._next is None:
            self._next = asyncio.create_task(self._look())
        found = (await asyncio.shield(self._next)).get(job_id)
        if found is None or found.project_id != project_id:
            raise NotFound(f"There is no job {shown(job_id)}.")
        return found

    async def changed(self, job_id: str, version: int, timeout_s: float) -> bool:
        """Waits until the job or the sweep has another version, or the project's stream another end, or it is
        gone; False: not in time, or this has stopped."""
        if self.stopped:
            return False
        waiter = (version, asyncio.Event())
        self._waiting[job_id].add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1].wait()
            return not self.stopped
        except TimeoutError:
            return False
        finally:
            self._waiting[job_id].discard(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _look(self) -> dict[str, Standing]:
        async with self._turn:
            asked, self._asked, self._next = self._asked, set(), None
            return await asyncio.to_thread(self._standings, asked)

    def _standings(self, job_ids: Collection[str]) -> dict[str, Standing]:
        with self._sessions.read() as session:
            rows = session.execute(_STANDING, {"ids": list(job_ids)}).all()
        return {row[0]: Standing(*row) for row in rows}

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
                for prefix, (id_, version) in _VERSIONS.items():
                    ids = [one for one in part if one.startswith(prefix)]
                    if ids:
                        found = session.execute(select(id_, version).where(id_.in_(ids)))
                        versions.update((row[0], row[1]) for row in found)
        return versions

    def _wake(self, versions: dict[str, int | None]) -> None:
        for job_id, version in versions.items():
            for seen, event in self._waiting.get(job_id, ()):
                if seen != version:
                    event.set()


_VERSIONS = {  # what moves, by how the id begins
    "job_": (Job.id, Job.version),
    "swp_": (Sweep.id, Sweep.version),
    "prj_": (Project.id, Project.events),
}
_jobs = Job.__table__.c  # of the table, not of the class: half the time, and pollers ask this all day
_STANDING = select(_jobs.id, _jobs.project_id, _jobs.version, _jobs.status).where(
    _jobs.id.in_(bindparam("ids", expanding=True))
)
