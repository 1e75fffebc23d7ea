"""Why a job waits, and how many go before it: what is told is what claims then do, on both databases."""

from typing import Any

from sqlalchemy import text, update

from app.db.session import Sessions
from app.db.tables import Job, Project
from app.services import claims, jobs, places
from app.services.places import Waiting
from app.settings import Settings
from tests import orders

B = "prj_other"


def shop_of(sessions: Sessions, **worker: Any) -> Sessions:
    with sessions.write() as session:
        session.add(Project(id=B, name="other"))
        session.flush()
        for project in (orders.PROJECT, B):
            orders.stock(session, project)
        orders.worker(session, **worker)
    return sessions


def submitted(shop: Sessions, project: str = orders.PROJECT, **resources: Any) -> str:
    with shop.write() as session:
        job = orders.submit(session, Settings(), resources=resources)
        session.execute(update(Job).where(Job.id == job.id).values(project_id=project))
        return job.id


def waiting(shop: Sessions, *ids: str) -> list[Waiting]:
    with shop.read() as session:
        found = places.waiting(session, [session.get_one(Job, one) for one in ids])
    return [found[one] for one in ids]


def claimed(shop: Sessions, *accelerators: str) -> str | None:
    with shop.write() as session:
        job = claims.claim(session, "worker", accelerators or ("cpu",), 60.0)
    return None if job is None else job.id


def test_the_places_that_are_told_are_the_order_of_the_claims(sessions: Sessions) -> None:
    shop = shop_of(sessions)
    order = [(orders.PROJECT, 50), (orders.PROJECT, 50), (B, 50), (orders.PROJECT, 90), (B, 20), (B, 50)]
    ids = [submitted(shop, project, priority=priority) for project, priority in order]
    while ids:
        line = {told.ahead: one for one, told in zip(ids, waiting(shop, *ids), strict=True)}
        assert set(line) == set(range(len(ids)))
        taken = claimed(shop)
        assert taken == line[0]
        ids.remove(taken)


def test_a_new_job_would_stand_behind_those_that_go_first(sessions: Sessions) -> None:
    shop = shop_of(sessions)
    for priority in (50, 50, 90, 20):
        submitted(shop, priority=priority)
    with shop.read() as session:
        assert places.ahead_of_new(session, orders.PROJECT, 50, "auto", 1) == 3
        assert places.ahead_of_new(session, B, 50, "auto", 1) == 1, "its fair share comes first"
        assert places.ahead_of_new(session, B, 10, "auto", 1) == 4


def test_jobs_for_workers_of_another_kind_are_not_counted(sessions: Sessions) -> None:
    shop = shop_of(sessions)
    cuda, cpu = submitted(shop, accelerator="cuda"), submitted(shop, accelerator="cpu")
    assert waiting(shop, cuda, cpu) == [
        Waiting("capacity", 0, "no worker that offers cuda is there"),
        Waiting("capacity", 0),
    ]
    with shop.write() as session:
        orders.worker(session, accelerators=["cuda", "cpu"], devices=["GPU"])
    assert waiting(shop, cuda, cpu) == [Waiting("capacity", 0), Waiting("capacity", 1)]


def test_a_job_too_large_for_every_worker_says_so(sessions: Sessions) -> None:
    shop = shop_of(sessions, accelerators=["cuda"], devices=["GPU", "GPU"], slots=2)
    job_id = submitted(shop)
    with shop.write() as session:
        session.execute(update(Job).values(devices=4))
    assert waiting(shop, job_id) == [
        Waiting("capacity", 0, "no worker has 4 devices for one job: the largest has 2")
    ]


def test_a_project_at_its_quota_waits_and_is_in_nobodys_way(sessions: Sessions) -> None:
    shop = shop_of(sessions)
    with shop.write() as session:
        session.execute(update(Project).where(Project.id == orders.PROJECT).values(max_running_jobs=1))
    first, second = submitted(shop), submitted(shop, priority=90)
    other = submitted(shop, B, priority=10)
    assert [told.ahead for told in waiting(shop, second, first, other)] == [0, 1, 1]
    assert claimed(shop) == second
    assert waiting(shop, first, other) == [Waiting("quota", 0), Waiting("capacity", 0)]
    assert [claimed(shop), claimed(shop)] == [other, None]
    with shop.write() as session:
        jobs.fail(session, second, 1, {"code": "x", "detail": "y"})
    assert claimed(shop) == first


def test_jobs_for_a_gpu_wait_once_the_projects_seconds_are_used_up(sessions: Sessions) -> None:
    gpu = {"accelerators": ["cuda", "cpu"], "devices": ["GPU", "GPU"], "slots": 2}
    shop = shop_of(sessions, **gpu)
    first = submitted(shop, accelerator="cuda")
    assert claimed(shop, "cpu", "cuda") == first
    auto, cpu = submitted(shop, priority=90), submitted(shop, accelerator="cpu")
    other = submitted(shop, B, priority=10)
    assert waiting(shop, auto) == [Waiting("capacity", 0)]
    with shop.write() as session:
        session.execute(update(Project).where(Project.id == orders.PROJECT).values(max_gpu_s=0.0))
        assert jobs.renew(session, first, 1, 60.0).out_of_gpu
    assert waiting(shop, auto, cpu, other) == [
        Waiting("quota", 0, places.OUT_OF_GPU),
        Waiting("capacity", 0),
        Waiting("capacity", 1),
    ]
    with shop.read() as session:
        assert places.ahead_of_new(session, B, 10, "auto", 1) == 2
    assert [claimed(shop, "cpu", "cuda") for _ in range(3)] == [cpu, other, None]
    with shop.read() as session:
        assert claims.wanted(session, claims.Room.of(("cpu", "cuda"))) == set()
    with shop.write() as session:
        session.execute(update(Project).values(max_gpu_s=1e9))
        assert not jobs.renew(session, first, 1, 60.0).out_of_gpu
    assert claimed(shop, "cpu", "cuda") == auto


def test_a_job_that_its_worker_handed_back_is_preempted_until_it_runs_again(sessions: Sessions) -> None:
    shop = shop_of(sessions)
    job_id = submitted(shop)
    assert claimed(shop) == job_id
    with shop.write() as session:
        jobs.yield_(session, job_id, 1)
    assert waiting(shop, job_id) == [Waiting("preempted", 0)]
    assert claimed(shop) == job_id
    with shop.write() as session:
        jobs.crash(session, job_id, 2, "it was killed", 3)
    assert waiting(shop, job_id) == [Waiting("retry", 0)]
    with shop.write() as session:
        session.execute(text("UPDATE jobs SET available_at = created_at"))
    assert waiting(shop, job_id) == [Waiting("capacity", 0)]
