"""Who is next, on both databases: priority, fair share, age, quotas, and claims that race."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from app.db.dialect import db_now, now
from app.db.session import Sessions
from app.db.tables import Job, Project
from app.services import claims, leases
from app.services.claims import Room
from app.services.phases import PHASES

A, B = "prj_default", "prj_other"
RACED = 200
CLAIM_ALL = """
import sys
import time
from app.db.session import Sessions
from app.services import claims

sessions = Sessions(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    with sessions.write() as session:
        job = claims.claim(session, sys.argv[2], ("cpu",), 60.0)
    if job is None:
        break
    print(job.id, job.attempt)
    time.sleep(0.001)  # else SQLite gives its lock to the same one again and again
"""


@pytest.fixture
def shop(sessions: Sessions) -> Sessions:
    with sessions.write() as session:
        session.add(Project(id=B, name="other"))
    return sessions


def queue(shop: Sessions, *jobs: dict[str, Any]) -> list[str]:
    """Rows of queued jobs, each a second younger than the one before; their ids."""
    start = now() - timedelta(hours=1)
    rows = [
        {
            "id": f"job_{place:06}",
            "project_id": A,
            "name": "",
            "task": "tabular_classification",
            "spec": {},
            "resolved": {"spec": {"resources": {"max_runtime_s": 60.0}}},
            "spec_digest": "0" * 64,
            "priority": 50,
            "accelerator": "auto",
            "devices": 1,
            "phases": [{"name": name, "status": "pending"} for name in PHASES],
            "progress": {},
            "usage": {},
            "artifacts": [],
            "runtime_left_s": 60.0,
            "created_at": start + timedelta(seconds=place),
            "available_at": start,
            **job,
        }
        for place, job in enumerate(jobs)
    ]
    with shop.write() as session:
        session.execute(insert(Job), rows)
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("ANALYZE jobs"))
    return [row["id"] for row in rows]


def claimed(shop: Sessions, accelerators: tuple[str, ...] = ("cpu",), room: Room | None = None) -> str | None:
    with shop.write() as session:
        job = claims.claim(session, "worker", accelerators, 60.0, room)
    return None if job is None else job.id


def test_the_project_with_fewer_running_jobs_goes_first_among_equals(shop: Sessions) -> None:
    a1, a2, a3, b1, b2 = queue(shop, *[{}] * 3, *[{"project_id": B}] * 2)
    assert [claimed(shop) for _ in range(6)] == [a1, b1, a2, b2, a3, None]


def test_priority_stands_above_the_fair_share_and_age_below_it(shop: Sessions) -> None:
    old, urgent, more, other = queue(shop, {}, {"priority": 90}, {"priority": 90}, {"project_id": B})
    assert [claimed(shop) for _ in range(4)] == [urgent, more, other, old]


def test_what_a_worker_cannot_carry_is_in_nobodys_way(shop: Sessions) -> None:
    later = now() + timedelta(hours=1)
    jobs: list[dict[str, Any]] = [{"accelerator": "cuda", "priority": 90}, {"devices": 2, "priority": 80}]
    cuda, large, _, small = queue(shop, *jobs, {"available_at": later, "priority": 70}, {})
    assert [claimed(shop), claimed(shop)] == [small, None]
    assert claimed(shop, ("cuda",)) == cuda
    assert claimed(shop, room=Room({"cpu": 2, "auto": 2}, {"cpu": 2, "auto": 2})) == large


def test_slots_are_kept_free_for_a_large_job_that_has_waited_long(shop: Sessions) -> None:
    large, small = queue(shop, {"devices": 2, "available_at": now()}, {})
    half, all_ = {"cpu": 1, "auto": 1}, {"cpu": 2, "auto": 2}
    with shop.write() as session:
        assert claims.wanted(session, Room(half, all_)) == {"auto"}
        session.execute(update(Job).values(available_at=db_now(-2 * claims.PATIENCE_S)))
        assert claims.wanted(session, Room(half, all_)) == set()
        assert claims.wanted(session, Room(half, half)) == {"auto"}, "this one will never be large enough"
    assert [claimed(shop, room=Room(all_, all_)), claimed(shop)] == [large, small]


def test_what_is_kept_for_a_job_for_gpus_is_none_of_the_slots_without(shop: Sessions) -> None:
    longer = now() - timedelta(hours=1)
    jobs = [{"devices": 4, "accelerator": "cuda", "available_at": longer}]
    jobs += [{"accelerator": "auto"}, {"accelerator": "cpu"}, {"accelerator": "cpu", "devices": 3}]
    gpus, on_gpu, plain, _ = queue(shop, *jobs)
    whole = {"cuda": 4, "auto": 4, "cpu": 6}
    room, kinds = Room({"cuda": 3, "auto": 3, "cpu": 5}, whole), ("cuda", "cpu")
    assert [claimed(shop, kinds, room) for _ in range(2)] == [plain, None]  # two slots have no GPU
    assert claimed(shop, kinds, Room(whole, whole)) == gpus
    assert claimed(shop, kinds, room) == on_gpu


def test_slots_are_not_kept_free_for_a_project_that_may_run_nothing_more(shop: Sessions) -> None:
    _, small = queue(shop, {"devices": 2, "available_at": now() - timedelta(hours=1)}, {"project_id": B})
    half, all_ = {"cpu": 1, "auto": 1}, {"cpu": 2, "auto": 2}
    assert claimed(shop, room=Room(half, all_)) is None
    with shop.write() as session:
        session.execute(update(Project).where(Project.id == A).values(max_running_jobs=0))
    assert claimed(shop, room=Room(half, all_)) == small


def test_two_processes_that_race_claim_every_job_once(shop: Sessions, database_url: str) -> None:
    ids = queue(shop, *[{"project_id": [A, B][place % 2]} for place in range(RACED)])
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, database_url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in racing:
        assert process.stdout is not None
        process.stdout.readline()
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [process.communicate(timeout=60)[0].splitlines() for process in racing]
    assert sorted(taken[0] + taken[1]) == [f"{job_id} 1" for job_id in ids]
    assert all(taken), "there was no race"


def test_a_claim_of_ten_thousand_reads_a_handful(postgres_url: str) -> None:
    shop = Sessions(postgres_url)
    with shop.write() as session:
        session.add_all([Project(id=A, name="default"), Project(id=B, name="other")])
    queue(shop, *[{"project_id": [A, B][place % 2], "priority": place % 5} for place in range(10_000)])
    with shop.write() as session:
        assert claims.claim(session, "worker", ("cpu", "cuda"), 60.0) is not None
        read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
        assert (session.scalar(text(read)) or 0) < 50
        assert leases.next_end_s(session) is not None
        assert (session.scalar(text(read)) or 0) < 100
    shop.close()
