"""The manners of a Celery worker and of its bell: a real process, a real broker, and a job of the drills.

The broker is nobody's truth, so nothing that stands in it may do more than wake a worker.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import select, update

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Job, Project, Worker
from app.ports.blobs import file_blobs
from app.ports.queue import EXPIRES_S, QUEUES, TASK, CeleryQueue
from app.settings import Settings
from tests import orders
from tests.chaos import stack
from tests.chaos.chain import STEPS
from tests.chaos.processes import Process, running
from tests.composed import ROOT
from tests.waiting import until

PASSWORD = "the-brokers-password"
(QUEUE,) = QUEUES["cpu"]
QUIET_S = 3600.0  # nobody looks for work by itself
SLOWLY, QUICKLY = {"CHAOS_STEP_S": "0.8"}, {"CHAOS_STEP_S": "0.001"}
SOME_S = 0.5  # in which a worker would have done what it must not
MOST_S = 30.0  # for a worker to be gone


class Code:
    """What a pickled message runs when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


@pytest.fixture
def broker_url(redis_url: str) -> Iterator[str]:
    """With a password, which a log must not have."""
    with redis.Redis.from_url(redis_url) as broker:
        broker.execute_command("ACL", "SETUSER", "worker", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        yield redis_url.replace("redis://", f"redis://worker:{PASSWORD}@")
        broker.execute_command("ACL", "DELUSER", "worker")


@pytest.fixture
def place(settings: Settings, broker_url: str) -> Settings:
    return settings.model_copy(update={"queue_url": broker_url, "poll_s": QUIET_S, "slots": 1})


@pytest.fixture
def sessions(place: Settings) -> Iterator[Sessions]:
    sessions = Sessions(place.database_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
    stack.stock(sessions, file_blobs(Path(place.blobs_url.removeprefix("file://"))))
    yield sessions
    sessions.close()


@contextmanager
def worker(place: Settings, sessions: Sessions, **changes: str) -> Iterator[Process]:
    """As the image starts it, with the drills' work; it is there."""
    start = re.search(r'^CMD (\["celery".*?\])', (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)
    assert start is not None
    command = [sys.executable, "-m", *re.findall(r'"([^"]+)"', start[1])]
    log = place.work_dir.parent / "worker.log"

    def ready() -> None:
        with sessions.read() as session:
            session.scalars(select(Worker).where(~Worker.leaving)).one()

    environment = place.environment() | changes
    process = Process("worker", command, log, ready, environment=environment, cwd=stack.DRILL)
    with running([process]):
        yield process


def test_a_worker_has_manners_and_hands_its_job_on(
    place: Settings, sessions: Sessions, redis_url: str, tmp_path: Path
) -> None:
    bell, marker = CeleryQueue(place.queue_url), tmp_path / "unpickled"
    with redis.Redis.from_url(redis_url) as broker, worker(place, sessions, **SLOWLY) as first:
        job_id = submitted(place, sessions, waits=True)  # for its first look may come late

        def job() -> Job:
            return seen(sessions, job_id)

        # what must not be heard
        send(place.queue_url, expires=datetime.now(UTC) - timedelta(seconds=1))
        send(place.queue_url, serializer="pickle", argument=Code(marker))
        Celery(broker=place.queue_url).control.broadcast("shutdown")
        until(lambda: broker.llen(QUEUE) == 0)
        time.sleep(SOME_S)
        assert (job().status, first.alive, marker.exists()) == ("queued", True, False)
        assert (broker.pubsub_channels(), broker.pubsub_numpat()) == ([], 0)

        # what must
        with sessions.write() as session:
            session.execute(update(Job).values(available_at=db_now()))
        send(place.queue_url, ignore_result=False)
        until(lambda: job().status == "running")
        for _ in range(2):
            bell.ring(job_id, "cpu")
        until(lambda: broker.llen(QUEUE) == 2)
        until(lambda: job().checkpoint_step)
        assert job().status == "running"
        assert broker.llen(QUEUE) == 2  # it has one slot
        assert broker.hlen("unacked") == 0  # the message was done with when it was read

        told = time.monotonic()
        first.send(signal.SIGTERM)
        assert first.wait(MOST_S) == 0
        assert time.monotonic() - told < MOST_S
        left = job()
        assert (left.status, left.attempt, left.interruptions, left.failures) == ("queued", 1, 1, 0)
        assert 0 < (left.checkpoint_step or 0) < STEPS
        assert not [key for key in broker.scan_iter() if b"meta" in key]  # nobody asks for results

        with worker(place, sessions, **QUICKLY):
            until(lambda: job().status == "succeeded")
    bell.close()
    assert (job().attempt, job().outcome) == (2, {"attempt": 2, "steps": STEPS})
    said = (tmp_path / "worker.log").read_text(errors="replace")
    assert "ContentDisallowed" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("trouble", ["is away", "refuses to write"])
def test_a_worker_needs_no_broker(place: Settings, sessions: Sessions, redis_url: str, trouble: str) -> None:
    """It finds its work by itself, and hands it back when it leaves."""
    url = "redis://127.0.0.1:1"
    if trouble == "refuses to write":  # as a replica does, or one whose memory is full
        url = redis_url.replace("redis://", f"redis://reader:{PASSWORD}@")
        with redis.Redis.from_url(redis_url) as broker:
            broker.execute_command(
                "ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-sadd"
            )
    lonely = place.model_copy(update={"queue_url": url, "poll_s": 0.2})
    with worker(lonely, sessions, **SLOWLY) as process:
        job_id = submitted(place, sessions)
        until(lambda: seen(sessions, job_id).checkpoint_step)
        assert process.alive
        process.send(signal.SIGTERM)
        assert process.wait(MOST_S) == 0
    left = seen(sessions, job_id)
    assert (left.status, left.attempt, left.interruptions, left.failures) == ("queued", 1, 1, 0)


def submitted(place: Settings, sessions: Sessions, *, waits: bool = False) -> str:
    with sessions.write() as session:
        job = orders.submit(session, place)
        if waits:
            session.execute(update(Job).values(available_at=db_now(QUIET_S)))
        return job.id


def seen(sessions: Sessions, job_id: str) -> Job:
    with sessions.read() as session:
        return session.get_one(Job, job_id)


def send(url: str, *, argument: object = "job_0", serializer: str = "json", **options: Any) -> None:
    """As anybody could who reaches the broker."""
    app = Celery(broker=url)
    app.conf.update(accept_content=["json", "pickle"], task_ignore_result=False)
    app.send_task(TASK, args=[argument], queue=QUEUE, serializer=serializer, **options)
    app.close()


def test_a_bell_says_an_id_in_json_and_not_for_long(redis_url: str) -> None:
    bell = CeleryQueue(redis_url)
    bell.ring("job_1", "cpu")
    with redis.Redis.from_url(redis_url) as broker:
        until(lambda: broker.llen(QUEUE) == 1)
        message = json.loads(broker.lindex(QUEUE, 0))
    bell.close()
    assert message["content-type"] == "application/json"
    assert (message["headers"]["task"], message["headers"]["argsrepr"]) == (TASK, "['job_1']")
    ends = datetime.fromisoformat(message["headers"]["expires"])
    assert timedelta(0) < ends - datetime.now(UTC) <= timedelta(seconds=EXPIRES_S)


def test_nobody_waits_for_the_broker_for_ever(redis_url: str) -> None:
    """A call to a broker that has stopped ends; what a connection has is looked at, for it takes long."""
    bell = CeleryQueue(redis_url)
    with bell._celery.connection() as connection:
        found = connection.channel().client.connection_pool.connection_kwargs
    bell.close()
    assert 0 < found["socket_connect_timeout"] <= 10
    assert 0 < found["socket_timeout"] <= 30
    assert found["socket_keepalive"]


def test_nobody_makes_sigterm_another_signal() -> None:
    """With REMAP_SIGTERM a worker would drop its jobs instead of handing them back."""
    files = ("Dockerfile", "docker-compose.yml", "Makefile", "worker/celery.py")
    assert not [name for name in files if "REMAP_SIGTERM" in (ROOT / name).read_text()]


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("QUEUE_URL", "local://", "name it in STILLHOUSE_QUEUE_URL"),
        ("LEASE_S", "soon", "STILLHOUSE_LEASE_S: "),
    ],
)
def test_a_worker_refuses_settings_in_a_sentence(
    place: Settings, setting: str, value: str, said: str
) -> None:
    environment = os.environ | place.environment() | {f"STILLHOUSE_{setting}": value}
    command = [sys.executable, "-m", "celery", "--app", "worker.celery", "worker", "--pool", "threads"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
