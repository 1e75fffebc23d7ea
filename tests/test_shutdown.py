"""A service that is told to end answers what it has begun, lets go of who waits, and is gone in time."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.db.session import Sessions
from app.db.tables import Project
from app.settings import Settings
from tests import orders
from tests.test_process import running, url_of

LONGEST_S = 30.0
CLIENTS, ENOUGH = 8, 40  # at once; answers before the signal


@pytest.fixture
def job(settings: Settings) -> Iterator[str]:
    """One that no worker here can take, so that it stands still."""
    sessions = Sessions(settings.database_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
        job_id = orders.submit(session, settings, resources={"accelerator": "cuda"}).id
    yield job_id
    sessions.close()


def test_under_load_it_answers_and_ends_well_though_it_is_told_twice(settings: Settings, job: str) -> None:
    stopping = threading.Event()
    statuses: list[int] = []
    cut: list[str] = []

    def ask_on(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stopping.is_set():
                _ask(client, statuses, cut)

    with running(settings) as process, ThreadPoolExecutor(CLIENTS + 3) as pool:
        url = url_of(process)
        log = pool.submit(process.stderr.read)  # type: ignore[union-attr]
        poll = pool.submit(httpx.get, f"{url}/v1/jobs/{job}?wait=60", timeout=70)
        begun = threading.Event()
        stream = pool.submit(_read_stream, f"{url}/v1/jobs/{job}/events", begun)
        assert begun.wait(20)
        asking = [pool.submit(ask_on, url) for _ in range(CLIENTS)]
        while len(statuses) < ENOUGH:
            time.sleep(0.02)
        assert not poll.done()
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        code = process.wait(LONGEST_S)
        took_s = time.monotonic() - told
        stopping.set()
        for one in asking:
            one.result(10)
        assert poll.result(10).status_code == 200
        assert "job.created" in stream.result(10)
    assert code == 0
    assert took_s < LONGEST_S
    assert set(statuses) == {200}
    assert cut == []
    said = log.result(10)
    assert "Traceback" not in said
    assert "status=499" not in said  # what was begun was answered


def _ask(client: httpx.Client, statuses: list[int], cut: list[str]) -> None:
    """Before the answer's head a connection may be closed, for the request was never begun; not behind it."""
    begun = False
    try:
        with client.stream("GET", "/v1/jobs") as answer:
            begun = True
            answer.read()
            statuses.append(answer.status_code)
    except httpx.TransportError as error:
        if begun:
            cut.append(repr(error))
        time.sleep(0.05)


def _read_stream(url: str, begun: threading.Event) -> str:
    """All of it: the server ends it properly."""
    with httpx.stream("GET", url, headers={"Accept": "text/event-stream"}, timeout=70) as answer:
        read = []
        for text in answer.iter_text():
            begun.set()
            read.append(text)
        return "".join(read)
