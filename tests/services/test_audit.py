"""The audit log's writer."""

import asyncio
from dataclasses import replace
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError

from app.db.session import Sessions
from app.db.tables import AuditEntry
from app.services.audit import Deed, Scribe

DEED = Deed("prj_a", None, "POST", "/v1/jobs", "/v1/jobs/job_1\n", 202, None, "req_1")


def test_deeds_of_one_moment_share_a_transaction(sessions: Sessions) -> None:
    commits: list[object] = []
    event.listen(sessions.engine, "commit", commits.append)

    async def write() -> None:
        scribe = Scribe()
        deeds = [replace(DEED, request_id=f"req_{number}") for number in range(50)]
        await asyncio.gather(*(scribe.write(sessions, deed) for deed in deeds))
        assert len(commits) <= 2
        await scribe.write(sessions, DEED)
        assert len(commits) <= 3

    asyncio.run(write())
    with sessions.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 51
        assert session.scalar(select(func.count(AuditEntry.request_id.distinct()))) == 50
        assert set(session.scalars(select(AuditEntry.object))) == {"/v1/jobs/job_1?"}


def test_what_cannot_be_written_is_told_to_all_who_wait_and_to_nobody_else(sessions: Sessions) -> None:
    async def write() -> None:
        scribe = Scribe()
        nameless: Any = None
        wrong = [scribe.write(sessions, replace(DEED, method=nameless)) for _ in range(3)]
        told = await asyncio.gather(*wrong, return_exceptions=True)
        assert [type(one) for one in told] == [IntegrityError] * 3
        await scribe.write(sessions, DEED)

    asyncio.run(write())
    with sessions.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 1


def test_who_leaves_does_not_keep_others_from_their_entries(sessions: Sessions) -> None:
    async def write() -> None:
        scribe = Scribe()
        leaves = asyncio.create_task(scribe.write(sessions, DEED))
        stays = asyncio.create_task(scribe.write(sessions, DEED))
        await asyncio.sleep(0)
        leaves.cancel()
        await stays

    asyncio.run(write())
    with sessions.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 2
