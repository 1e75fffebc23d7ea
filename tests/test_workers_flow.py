"""Several workers, over HTTP and with real processes: they share the queue, and the broker may lose it."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis

from app.db.session import Sessions
from app.db.tables import Project
from app.services import claims
from app.settings import Settings
from tests import orders
from tests.irises import iris_order
from tests.test_flow import ask, celery_worker, ended
from tests.waiting import alive, until

SUPERVISOR = """
import subprocess, sys, time
from app.services import trainer
from app.services.workplace import Places
from app.settings import Settings

places = Places((), 2, computes_on_gpus=False)
command = trainer.command(sys.argv[1], 1, places)
environment = trainer.environment(Settings(), places)
process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
print(process.pid, flush=True)
time.sleep(120)
"""


def test_two_workers_end_every_job_though_the_broker_forgets_everything(
    service: Callable[..., httpx.Client],
    settings: Settings,
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    changes = {"database_url": postgres_url, "queue_url": redis_url}
    client = service(**changes)
    spec = iris_order(
        client,
        tmp_path,
        training={"epochs": 1, "batch_size": 16},
        evaluation={"compare": []},
        exports=[{"kind": "safetensors"}],
    )
    assert ask(client, "GET", "/v1/workers")["data"] == []
    with ExitStack() as stack:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            stack.enter_context(celery_worker(settings.model_copy(update=changes), tmp_path / name))
        until(lambda: len(ask(client, "GET", "/v1/workers")["data"]) == 2)
        jobs = [ask(client, "POST", "/v1/jobs", json=spec) for _ in range(3)]

        def busy() -> list[str]:
            return [job for worker in ask(client, "GET", "/v1/workers")["data"] for job in worker["jobs"]]

        until(lambda: len(busy()) == 2)
        waits = ask(client, "GET", f"/v1/jobs/{({job['id'] for job in jobs} - {*busy()}).pop()}")
        assert waits["waiting"] == {"reason": "capacity", "ahead": 0, "detail": None}
        with redis.Redis.from_url(redis_url) as broker:
            broker.flushall()
        after = [ended(client, job) for job in jobs]
    assert [job["status"] for job in after] == ["succeeded"] * 3, [job["error"] for job in after]
    assert {job["attempts"] for job in after} == {1}


def test_all_processes_of_a_job_end_when_its_supervisor_is_killed(
    settings: Settings, sqlite_url: str
) -> None:
    sessions = Sessions(sqlite_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
        job_id = orders.submit(session, settings).id
        claims.claim(session, "me", ("cpu",), 600.0)
    sessions.close()
    command = [sys.executable, "-c", SUPERVISOR, job_id]
    environment = os.environ | settings.environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as supervisor:
        assert supervisor.stdout is not None
        first = int(supervisor.stdout.readline())
        until(lambda: len(children(first)) == 1)
        processes = [first, *children(first)]
        supervisor.kill()
    until(lambda: not any(alive(pid) for pid in processes))


def children(pid: int) -> list[int]:
    """Not its threads' names, but the processes that any of its threads started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_queue_that_nobody_listens_to_does_not_grow_for_ever(redis_url: str, accelerator: str) -> None:
    from app.ports.queue import QUEUES, UNHEARD, CeleryQueue

    bell = CeleryQueue(redis_url)
    with redis.Redis.from_url(redis_url) as broker:
        for _ in range(3):
            for _ in range(UNHEARD // 2):
                bell.ring("job_1", accelerator)
            until(bell._rings.empty)
        bell.close()
        assert {broker.llen(name) for name in QUEUES[accelerator]} == {UNHEARD}
        assert broker.llen("stillhouse.cuda") == (UNHEARD if accelerator == "auto" else 0)
