"""How jobs stand, for many who ask at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from app.db.session import Sessions
from app.errors import NotFound
from app.services import jobs
from app.services.watch import Watcher
from app.settings import Settings
from tests import orders


@pytest.fixture
def job_ids(sessions: Sessions) -> list[str]:
    with sessions.write() as session:
        orders.stock(session)
        return [orders.submit(session, Settings()).id for _ in range(3)]


@contextmanager
def statements(sessions: Sessions) -> Iterator[list[str]]:
    """The SELECTs of the block."""
    found: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        found.append(statement)

    event.listen(sessions.engine, "before_cursor_execute", listen)
    yield found
    event.remove(sessions.engine, "before_cursor_execute", listen)
    found[:] = [statement for statement in found if statement.startswith("SELECT")]


def test_all_who_ask_at_once_share_a_query(sessions: Sessions, job_ids: list[str]) -> None:
    async def ask() -> None:
        watcher = Watcher(sessions)
        found = await asyncio.gather(*(watcher.standing(orders.PROJECT, job_ids[i % 3]) for i in range(60)))
        assert [one.id for one in found] == [job_ids[i % 3] for i in range(60)]
        assert {(one.version, one.status) for one in found} == {(1, "queued")}

    with statements(sessions) as asked:
        asyncio.run(ask())
    assert len(asked) == 1


def test_whoever_asks_after_a_change_sees_it(sessions: Sessions, job_ids: list[str]) -> None:
    """Even while a query that began before it is still running."""

    async def ask() -> None:
        watcher = Watcher(sessions)
        for job_id in job_ids:
            early = asyncio.create_task(watcher.standing(orders.PROJECT, job_id))
            await asyncio.sleep(0)
            with sessions.write() as session:
                jobs.cancel(session, orders.PROJECT, job_id, "discard")
            late = await watcher.standing(orders.PROJECT, job_id)
            assert (late.version, late.status) == (2, "cancelled")
            assert (await early).version in (1, 2)

    asyncio.run(ask())


def test_a_job_of_another_project_is_not_there(sessions: Sessions, job_ids: list[str]) -> None:
    async def ask() -> None:
        watcher = Watcher(sessions)
        for project_id, job_id in (("prj_other", job_ids[0]), (orders.PROJECT, "job_nothing")):
            with pytest.raises(NotFound, match="no job"):
                await watcher.standing(project_id, job_id)

    asyncio.run(ask())


def test_one_who_gives_up_does_not_disturb_the_others(sessions: Sessions, job_ids: list[str]) -> None:
    async def ask() -> None:
        watcher = Watcher(sessions)
        impatient = asyncio.create_task(watcher.standing(orders.PROJECT, job_ids[0]))
        patient = asyncio.create_task(watcher.standing(orders.PROJECT, job_ids[1]))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).id == job_ids[1]
        assert (await watcher.standing(orders.PROJECT, job_ids[0])).id == job_ids[0]

    asyncio.run(ask())
