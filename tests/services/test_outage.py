"""A database that goes away under a running attempt and comes back: a real server, stopped and started."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.db.migrate import upgrade
from app.db.tables import Project
from app.ports.parts import Parts
from app.services import attempt_process, claims, job_records, jobs
from app.settings import Settings
from app.wiring import assemble
from tests import orders, servers

PATIENCE_S = 30.0
TRAINER = """
import pathlib, sys, time
from app.services import jobs
from app.settings import Settings
from app.wiring import assemble

parts = assemble(Settings())
parts.sessions.patience_s = 60.0

def tell(message):
    with parts.sessions.write() as session:
        jobs.note(session, sys.argv[1], 1, type="log", level="info", phase=None, message=message)

tell("before")
pathlib.Path("told").touch()
while not pathlib.Path("away").exists():
    time.sleep(0.02)
tell("after")
raise SystemExit(69)
"""


class Server:
    """Postgres that is stopped as by a crash, and started again on what it had."""

    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        command, before, self._popen = servers.postgres_cluster(folder, self.port)
        self._command = [*before, *map(str, command)]
        self._log = folder / "log"
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process: Any = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._popen
            )
        until(self._answers)

    def stop(self) -> None:
        self._process.send_signal(3)  # SIGQUIT: at once, and its shared memory goes with it
        self._process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "postgres"
    folder.mkdir()
    tmp_path.chmod(0o755)
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def parts(settings: Settings, server: Server) -> Iterator[Parts]:
    upgrade(server.url)
    parts = assemble(settings.model_copy(update={"database_url": server.url, "lease_s": 30.0}))
    with parts.sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    yield parts
    parts.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_an_attempt_outlives_a_database_that_is_away_for_a_while(
    parts: Parts, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__main__.py").write_text(TRAINER)
    (tmp_path / "worker" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with parts.sessions.write() as session:
        job_id = orders.submit(session, parts.settings).id
        job = claims.claim(session, "me", ("cpu",), parts.settings.lease_s)
    assert job is not None
    attempt = attempt_process.Attempt(parts, job_id, 1)
    keeper = threading.Thread(target=attempt.run, args=[threading.Event()])
    keeper.start()
    until((tmp_path / "told").exists)
    server.stop()
    (tmp_path / "away").touch()
    time.sleep(1.5)  # a renewal fails, and the process waits to write
    assert keeper.is_alive()
    server.start()
    keeper.join(PATIENCE_S)
    with parts.sessions.read() as session:
        seen = job_records.get(session, orders.PROJECT, job_id).job
        told = [one.message for one in job_records.events(session, orders.PROJECT, job_id, 0, 100)]
    assert [one for one in told if one in ("before", "after")] == ["before", "after"]
    assert "attempt 1 ended: the database or the object store did not answer" in told
    assert (seen.status, seen.interruptions, seen.failures, seen.no_progress) == ("queued", 1, 0, 0)


def test_an_end_is_written_as_soon_as_the_database_is_back(
    parts: Parts, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__main__.py").write_text(
        "import time, pathlib\npathlib.Path('told').touch()\n"
        "while not pathlib.Path('away').exists():\n    time.sleep(0.02)\nraise SystemExit(9)"
    )
    (tmp_path / "worker" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with parts.sessions.write() as session:
        job_id = orders.submit(session, parts.settings).id
        claims.claim(session, "me", ("cpu",), parts.settings.lease_s)
    keeper = threading.Thread(target=attempt_process.Attempt(parts, job_id, 1).run, args=[threading.Event()])
    keeper.start()
    until((tmp_path / "told").exists)
    server.stop()
    (tmp_path / "away").touch()
    time.sleep(1.0)
    assert keeper.is_alive()
    server.start()
    keeper.join(PATIENCE_S)
    with parts.sessions.read() as session:
        seen = job_records.get(session, orders.PROJECT, job_id).job
    assert (seen.status, seen.failures) == ("queued", 1)
    with parts.sessions.write() as session:
        assert jobs.reap(session, 3) == []
