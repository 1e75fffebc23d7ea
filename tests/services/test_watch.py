"""Who waits for a job is woken when it changes, and when the service stops."""

import asyncio
import time

from app.db.session import Sessions
from app.db.tables import Project
from app.services import jobs
from app.services.watch import Watcher
from app.settings import Settings
from tests import orders

PATIENCE_S = 20.0


def submitted(sessions: Sessions) -> str:
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
        return orders.submit(session, Settings()).id


async def _waits(sessions: Sessions, job_id: str, waiters: int) -> list[bool]:
    watcher = Watcher(sessions)
    await watcher.start()
    try:
        waits = [asyncio.create_task(watcher.changed(job_id, 1, PATIENCE_S)) for _ in range(waiters)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(_cancel, sessions, job_id)
        return list(await asyncio.gather(*waits))
    finally:
        await watcher.stop()


def _cancel(sessions: Sessions, job_id: str) -> None:
    with sessions.write() as session:
        jobs.cancel(session, orders.PROJECT, job_id, "discard")


def test_a_thousand_who_wait_are_woken_by_one_change(sqlite_url: str) -> None:
    sessions = Sessions(sqlite_url)
    job_id = submitted(sessions)
    assert asyncio.run(_waits(sessions, job_id, 1000)) == [True] * 1000
    sessions.close()


def test_who_waits_while_the_service_stops_waits_no_longer(sqlite_url: str) -> None:
    sessions = Sessions(sqlite_url)
    job_id = submitted(sessions)

    async def stop() -> list[bool]:
        watcher = Watcher(sessions)
        await watcher.start()
        wait = asyncio.create_task(watcher.changed(job_id, 1, PATIENCE_S))
        await asyncio.sleep(0.1)
        await watcher.stop()
        return [await wait, await watcher.changed(job_id, 1, PATIENCE_S)]

    started = time.monotonic()
    assert asyncio.run(stop()) == [False, False]
    assert time.monotonic() - started < PATIENCE_S / 2
    sessions.close()
