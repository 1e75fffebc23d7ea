"""What a project may take at most, where a job comes back that was there already."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.db.session import Sessions
from app.db.tables import Job, Project
from app.errors import QuotaExceeded
from app.services import copies, jobs, quotas
from app.settings import Settings
from tests import orders
from tests.waiting import until

PROJECT = orders.PROJECT
Deed = Callable[[Session, str, str], Any]


def shop_of(sessions: Sessions, **limits: Any) -> Sessions:
    with sessions.write() as session:
        orders.stock(session)
        session.execute(update(Project).values(limits))
    return sessions


def test_a_paused_job_does_not_come_back_past_the_quota(sessions: Sessions) -> None:
    shop = shop_of(sessions, max_queued_jobs=1)
    with shop.write() as session:
        first = orders.submit(session, Settings()).id
        jobs.pause(session, PROJECT, first)
        second = orders.submit(session, Settings()).id
    with pytest.raises(QuotaExceeded, match="queued jobs of this project: 1"), shop.write() as session:
        jobs.resume(session, PROJECT, first)
    with shop.write() as session:
        assert session.get_one(Job, first).status == "paused"
        jobs.cancel(session, PROJECT, second, "discard")
        assert jobs.resume(session, PROJECT, first).status == "queued"


def clone(session: Session, project_id: str, job_id: str) -> None:
    copies.changed(session, project_id, job_id, {})
    quotas.admit_job(session, project_id, "cpu")


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Sessions]:
    sessions = Sessions(postgres_url)
    with sessions.write() as session:
        session.add(Project(id=PROJECT, name="default"))
    yield sessions
    sessions.close()


@pytest.mark.parametrize("deed", [jobs.resume, copies.retry, clone])
def test_nobody_holds_a_job_while_waiting_for_its_project(postgres: Sessions, deed: Deed) -> None:
    shop = shop_of(postgres, max_queued_jobs=5)
    with shop.write() as session:
        job_id = orders.submit(session, Settings()).id
        if deed is jobs.resume:
            jobs.pause(session, PROJECT, job_id)
        else:
            jobs.cancel(session, PROJECT, job_id, "discard")

    def do() -> None:
        with shop.write() as session:
            deed(session, PROJECT, job_id)

    with ThreadPoolExecutor(1) as pool:
        with shop.write() as session:
            quotas.hold(session, PROJECT)
            waiting = pool.submit(do)
            until(lambda: somebody_waits(shop))
            session.execute(select(Job.id).where(Job.id == job_id).with_for_update(nowait=True))
        waiting.result()


def somebody_waits(shop: Sessions) -> bool:
    """For a row that another transaction holds."""
    mine = "datname = current_database() AND wait_event_type = 'Lock'"
    with shop.read() as session:
        return bool(session.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}")))
