"""The ledger of machine seconds: once for each attempt, whatever becomes of it, by day."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import ComputeUsage, Job, Project
from app.services import attempts, claims, jobs, quotas, usage
from app.settings import Settings
from tests import orders

ALWAYS = (date(2000, 1, 1), date(2100, 1, 1))


@pytest.fixture
def running(sessions: Sessions, settings: Settings) -> str:
    """A job that a worker with a GPU took 100 seconds ago, by its id."""
    with sessions.write() as session:
        orders.stock(session)
        orders.submit(session, settings)
        job = claims.claim(session, "me", ["cpu", "cuda"], 60.0)
        assert job is not None
        began(session, job.id, 100.0)
        return job.id


def began(session: Any, job_id: str, seconds: float) -> None:
    """Moves the start of its attempt to so long ago."""
    session.execute(update(Job).where(Job.id == job_id).values(attempt_started_at=db_now(-seconds)))


def ledger(sessions: Sessions) -> list[tuple[int, int, int]]:
    """(attempt, CPU seconds, GPU seconds), whole days together."""
    with sessions.read() as session:
        rows = session.scalars(select(ComputeUsage).order_by(ComputeUsage.attempt)).all()
    found = {row.attempt: [0.0, 0.0] for row in rows}
    for row in rows:
        found[row.attempt][0] += row.cpu_s
        found[row.attempt][1] += row.gpu_s
    return [(attempt, round(cpu), round(gpu)) for attempt, (cpu, gpu) in found.items()]


def test_every_attempt_is_counted_once_and_outlives_its_job(
    sessions: Sessions, settings: Settings, running: str
) -> None:
    with sessions.write() as session:
        jobs.yield_(session, running, 1)
    with sessions.write() as session:
        session.execute(update(Job).where(Job.id == running).values(available_at=db_now()))
        assert claims.claim(session, "me", ["cpu"], 60.0) is not None
        began(session, running, 50.0)
        jobs.yield_(session, running, 2)
        jobs.cancel(session, orders.PROJECT, running, "discard")
    assert ledger(sessions) == [(1, 0, 100), (2, 50, 0)]
    with sessions.write() as session:
        jobs.remove(session, orders.PROJECT, running)
        found = usage.days(session, [orders.PROJECT], *ALWAYS)
        assert round(sum(day.gpu_s for day in found)) == 100
        assert round(sum(day.cpu_s for day in found)) == 50
        assert usage.days(session, ["prj_other"], *ALWAYS) == []


def test_a_lost_worker_counts_until_its_lease_was_over(sessions: Sessions, running: str) -> None:
    with sessions.write() as session:  # and nobody was there to reap it
        session.execute(update(Job).values(lease_expires_at=db_now(-30.0)))
        assert jobs.reap(session, 3) == [running]
    assert ledger(sessions) == [(1, 0, 70)]


def test_a_rolled_back_end_is_not_counted(sessions: Sessions, running: str) -> None:
    with sessions.write() as session:
        attempts.fail(session, running, 1, {"code": "x", "detail": "x"})
        session.rollback()
    assert ledger(sessions) == []
    with sessions.write() as session:
        attempts.fail(session, running, 1, {"code": "x", "detail": "x"})
    assert ledger(sessions) == [(1, 0, 100)]


def test_an_attempt_over_midnight_is_divided(sessions: Sessions, running: str) -> None:
    with sessions.write() as session:
        began(session, running, 86_400.0 * 2)
        jobs.yield_(session, running, 1)
        days = usage.days(session, None, *ALWAYS)
    assert len(days) == 3
    assert days[1].gpu_s == 86_400.0
    assert sum(day.gpu_s for day in days) == pytest.approx(86_400.0 * 2, abs=10)


def test_gpu_seconds_of_the_month_have_what_runs_and_nothing_older(sessions: Sessions, running: str) -> None:
    with sessions.write() as session:
        now = datetime.now(UTC)
        so_far = (now - now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        assert usage.gpu_s_this_month(session, orders.PROJECT) == pytest.approx(min(100, so_far), abs=10)
        began(session, running, so_far + 1000)
        assert usage.gpu_s_this_month(session, orders.PROJECT) == pytest.approx(so_far, abs=10)
        jobs.yield_(session, running, 1)
        assert usage.gpu_s_this_month(session, orders.PROJECT) == pytest.approx(so_far, abs=10)
        after = now + timedelta(seconds=usage.seconds_left_of_month(session))
        assert (after.day, after.hour, after.minute) == (1, 0, 0)


def test_what_a_job_leaves_counts_as_stored_and_is_never_refused(sessions: Sessions, running: str) -> None:
    files = [{"name": "report.json", "sha256": "0" * 64, "size": 70, "media_type": "application/json"}]
    with sessions.write() as session:
        session.execute(update(Project).values(max_bytes=1))
        job = session.get_one(Job, running)
        attempts.succeed(session, running, 1, checkpoint=orders.student(job), manifest="m", artifacts=files,
                         outcome={}, usage={})  # fmt: skip
        stored = usage.stored(session, orders.PROJECT)
        assert (stored.datasets, stored.models, stored.artifacts) == (2000, 20, 70)
        assert [error.code for error in quotas.refusals(session, orders.PROJECT, "cpu")] == ["quota_exceeded"]
