"""The supervisor with real processes: a worker package of the test's own stands in for the trainer."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.tables import Job, Project
from app.ports.parts import Parts
from app.ports.queue import LocalQueue
from app.services import (
    attempt_logs,
    attempt_process,
    claims,
    job_records,
    jobs,
    process_group,
    scratch,
    supervise,
)
from app.services.workplace import Workplace
from app.settings import Settings
from app.wiring import assemble
from tests import orders

PATIENCE_S = 20.0
TELL = """
import os, pathlib, sys, time
pathlib.Path("pid").write_text(str(os.getpid()))
"""
SLEEP = TELL + "time.sleep(60)"
LEAVE_WHEN_ASKED = (
    TELL
    + """
word = sys.stdin.readline()
pathlib.Path("word").write_text(word)
raise SystemExit(76)
"""
)
WAIT_FOR_WORD = TELL + 'pathlib.Path("word").write_text(sys.stdin.readline())'
CHILD_THAT_OUTLIVES = (
    TELL + 'import subprocess; child = subprocess.Popen(["sleep", "60"]); '
    'pathlib.Path("grandchild").write_text(str(child.pid)); os._exit(3)'
)


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    parts = assemble(settings.model_copy(update={"lease_s": 4.0}))
    with parts.sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    yield parts
    parts.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What users want is carried out soon."""
    monkeypatch.setattr(attempt_process, "TICK_S", 0.1)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What `python -m worker` is in this test: it runs in the test's own folder."""

    def become(source: str) -> None:
        (tmp_path / "worker").mkdir(exist_ok=True)
        (tmp_path / "worker" / "__init__.py").touch()
        (tmp_path / "worker" / "__main__.py").write_text(source)
        monkeypatch.chdir(tmp_path)

    return become


def submitted(parts: Parts, **changes: object) -> str:
    with parts.sessions.write() as session:
        return orders.submit(session, parts.settings, **changes).id  # type: ignore[arg-type]


def seen(parts: Parts, job_id: str) -> Job:
    with parts.sessions.read() as session:
        return job_records.get(session, orders.PROJECT, job_id).job


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while its file was read
        return False


def ended_so(parts: Parts, job_id: str) -> str:
    """What is told of the last attempt's end."""
    with parts.sessions.read() as session:
        told = job_records.events(session, orders.PROJECT, job_id, 0, 100)
    return [event.message for event in told if event.type == "attempt.ended"][-1]


def attempt_of(parts: Parts) -> None:
    """Claims one job and carries out one attempt at it."""
    with parts.sessions.write() as session:
        job = claims.claim(session, "me", ("cpu",), parts.settings.lease_s)
    assert job is not None
    attempt_process.Attempt(parts, job.id, job.attempt).run(threading.Event())


def working(parts: Parts, stopping: threading.Event | None = None) -> threading.Thread:
    thread = threading.Thread(
        target=supervise.work,
        args=(parts, Workplace(parts.settings), parts.queue, stopping or threading.Event()),
    )
    thread.start()
    return thread


def test_a_process_that_dies_is_a_crash_and_the_job_is_tried_again_later(
    parts: Parts, trainer: Callable[[str], None]
) -> None:
    trainer("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    job_id = submitted(parts)
    supervise.work(parts, Workplace(parts.settings), parts.queue, threading.Event())
    job = seen(parts, job_id)
    assert (job.status, job.attempt, job.failures) == ("queued", 1, 1)
    with parts.sessions.read() as session:
        told = [event.message for event in job_records.events(session, orders.PROJECT, job_id, 0, 100)]
    assert "attempt 1 ended: its process was ended by SIGSEGV" in told


def test_a_process_that_always_dies_is_poison(parts: Parts, trainer: Callable[[str], None]) -> None:
    trainer("raise SystemExit(9)")
    job_id = submitted(parts)
    for _ in range(3):
        supervise.work(parts, Workplace(parts.settings), parts.queue, threading.Event())
        with parts.sessions.write() as session:
            session.execute(text("UPDATE jobs SET available_at = created_at WHERE status = 'queued'"))
    job = seen(parts, job_id)
    assert (job.status, job.attempt) == ("failed", 3)
    assert job.error is not None
    assert "ended with code 9" in job.error["detail"]


def test_nothing_of_a_process_group_outlives_its_attempt(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(CHILD_THAT_OUTLIVES)
    submitted(parts)
    supervise.work(parts, Workplace(parts.settings), parts.queue, threading.Event())
    until(lambda: not alive(int((tmp_path / "grandchild").read_text())))


@pytest.mark.parametrize("source", [SLEEP, CHILD_THAT_OUTLIVES], ids=["itself", "a child"])
def test_a_slot_is_not_free_before_all_that_was_killed_is_gone(
    parts: Parts, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    kill, kills = process_group.kill, [0]

    def slowly(group: int) -> None:
        kills[0] += 1
        if kills[0] > 2:
            kill(group)

    monkeypatch.setattr(process_group, "kill", slowly)
    monkeypatch.setattr(attempt_process, "RELEASE_S", 0.05)
    trainer(source)
    job_id = submitted(parts, resources={"max_runtime_s": 0.1 if source == SLEEP else 100.0})
    with parts.sessions.write() as session:
        claims.claim(session, "me", ("cpu",), parts.settings.lease_s)
    attempt = attempt_process.Attempt(parts, job_id, 1)
    attempt.run(threading.Event())
    assert kills[0] >= 3
    assert not alive(attempt._process.pid)
    if source == CHILD_THAT_OUTLIVES:
        assert not alive(int((tmp_path / "grandchild").read_text()))
    assert seen(parts, job_id).status == ("failed" if source == SLEEP else "queued")


def test_a_discarded_job_is_killed_and_ends_as_cancelled(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(SLEEP)
    job_id = submitted(parts)
    place = scratch.attempt_folder(parts.settings, job_id, 1)
    place.mkdir(parents=True)
    (place / "data.npy").touch()
    thread = working(parts)
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:
        jobs.cancel(session, orders.PROJECT, job_id, "discard")
    thread.join(PATIENCE_S)
    assert seen(parts, job_id).status == "cancelled"
    assert not place.exists()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_wish_to_keep_reaches_the_process(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(WAIT_FOR_WORD)
    job_id = submitted(parts)
    thread = working(parts)
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:
        jobs.cancel(session, orders.PROJECT, job_id, "keep")
    thread.join(PATIENCE_S)
    assert (tmp_path / "word").read_text() == "finish\n"


def test_a_worker_that_stops_asks_its_process_to_leave_and_hands_the_job_back_without_penalty(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(LEAVE_WHEN_ASKED)
    job_id = submitted(parts)
    assert isinstance(parts.queue, LocalQueue)
    supervisor = supervise.Supervisor(parts, Workplace(parts.settings), parts.queue)
    supervisor.start()
    until((tmp_path / "pid").exists)
    supervisor.stop()
    job = seen(parts, job_id)
    assert (job.status, job.interruptions, job.failures, job.no_progress) == ("queued", 1, 0, 0)
    assert (tmp_path / "word").read_text() == "leave\n"
    assert ended_so(parts, job_id) == "attempt 1 ended: its worker is shutting down"


def test_a_process_that_does_not_leave_in_time_is_killed(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_process, "LEAVE_S", 0.5)
    trainer(SLEEP)
    job_id = submitted(parts)
    stopping = threading.Event()
    thread = working(parts, stopping)
    until((tmp_path / "pid").exists)
    stopping.set()
    thread.join(PATIENCE_S)
    job = seen(parts, job_id)
    assert (job.status, job.interruptions, job.failures) == ("queued", 1, 0)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_paused_job_leaves_and_is_paused_with_its_time_kept(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(LEAVE_WHEN_ASKED)
    job_id = submitted(parts, resources={"max_runtime_s": 100.0})
    thread = working(parts)
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:
        jobs.pause(session, orders.PROJECT, job_id)
    thread.join(PATIENCE_S)
    job = seen(parts, job_id)
    assert (job.status, job.deadline_at) == ("paused", None)
    assert 70.0 < (job.runtime_left_s or 0.0) < 100.0
    assert ended_so(parts, job_id) == "attempt 1 ended: paused by its user"


def test_a_job_whose_project_has_no_gpu_seconds_left_leaves_and_waits(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(LEAVE_WHEN_ASKED)
    job_id = submitted(parts)
    with parts.sessions.write() as session:
        claims.claim(session, "me", ("cpu", "cuda"), parts.settings.lease_s)
        session.get_one(Project, orders.PROJECT).max_gpu_s = 0.001
    attempt_process.Attempt(parts, job_id, 1).run(threading.Event())
    assert (tmp_path / "word").read_text() == "leave\n"
    job = seen(parts, job_id)
    assert (job.status, job.desired, job.interruptions, job.preempted) == ("queued", "run", 1, False)
    assert ended_so(parts, job_id) == f"attempt 1 ended: {attempt_process.OUT_OF_GPU}"
    with parts.sessions.read() as session:
        told = job_records.events(session, orders.PROJECT, job_id, 0, 100)
    assert [one.data for one in told if one.type == "warning"] == [{"kind": "quota", "quota": "max_gpu_s"}]


def test_a_job_that_is_resumed_before_its_process_has_left_says_so(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(
        TELL + "sys.stdin.readline(); pathlib.Path('asked').touch()\n"
        "while not pathlib.Path('go').exists():\n    time.sleep(0.02)\nraise SystemExit(76)"
    )
    job_id = submitted(parts)
    with parts.sessions.write() as session:
        claims.claim(session, "me", ("cpu",), parts.settings.lease_s)
    thread = threading.Thread(target=attempt_process.Attempt(parts, job_id, 1).run, args=[threading.Event()])
    thread.start()
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:
        jobs.pause(session, orders.PROJECT, job_id)
    until((tmp_path / "asked").exists)
    with parts.sessions.write() as session:
        jobs.resume(session, orders.PROJECT, job_id)
    (tmp_path / "go").touch()
    thread.join(PATIENCE_S)
    job = seen(parts, job_id)
    assert (job.status, job.preempted) == ("queued", False)
    assert ended_so(parts, job_id) == "attempt 1 ended: paused by its user, and resumed before it had left"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (69, "the database or the object store did not answer"),
        (74, "its worker's disk is full"),
        (75, "its process took the job for another attempt's"),
        (76, "its worker is shutting down"),
    ],
)
def test_what_the_job_is_not_to_blame_for_costs_it_nothing(
    parts: Parts, trainer: Callable[[str], None], code: int, why: str
) -> None:
    trainer(f"raise SystemExit({code})")
    job_id = submitted(parts)
    attempt_of(parts)
    job = seen(parts, job_id)
    assert (job.status, job.interruptions, job.failures) == ("queued", 1, 0)
    assert ended_so(parts, job_id) == f"attempt 1 ended: {why}"


def test_a_worker_that_can_start_no_process_is_not_the_job_s_fault(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.trainer.command", lambda *_: ["/nowhere/python"])
    job_id = submitted(parts)
    attempt_of(parts)
    job = seen(parts, job_id)
    assert (job.status, job.interruptions, job.failures) == ("queued", 1, 0)
    assert ended_so(parts, job_id) == "attempt 1 ended: its worker could start no process"


def test_what_a_process_said_is_kept_without_what_is_ours_alone(
    parts: Parts, trainer: Callable[[str], None]
) -> None:
    trainer(
        "import sys; print('loaded /srv/data/rows.bin'); sys.stdout.flush(); raise KeyError('secret row')"
    )
    job_id = submitted(parts)
    supervise.work(parts, Workplace(parts.settings), parts.queue, threading.Event())
    with parts.sessions.read() as session:
        found = attempt_logs.find(session, orders.PROJECT, job_id, None)
    assert b"".join(parts.blobs.read(found.sha256)) == b"loaded [path]\nKeyError\n"


def test_a_supervisor_whose_lease_was_taken_kills_its_process_and_writes_nothing(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(SLEEP)
    job_id = submitted(parts)
    stopping = threading.Event()
    thread = working(parts, stopping)
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:  # another process took this one for dead
        session.execute(text("UPDATE jobs SET attempt = attempt + 1, lease_owner = 'somebody else'"))
    until(lambda: not alive(int((tmp_path / "pid").read_text())))
    stopping.set()
    thread.join(PATIENCE_S)
    job = seen(parts, job_id)
    assert (job.status, job.lease_owner, job.attempt) == ("running", "somebody else", 2)


def test_a_supervisor_that_cannot_renew_kills_its_process_before_the_lease_is_over(
    parts: Parts, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    trainer(SLEEP)
    submitted(parts)
    stopping = threading.Event()
    thread = working(parts, stopping)
    until((tmp_path / "pid").exists)
    with parts.sessions.write() as session:
        session.execute(text("SELECT 1"))  # takes the lock: nobody else can write, and so nobody renew
        until(lambda: not alive(int((tmp_path / "pid").read_text())))
    stopping.set()
    thread.join(PATIENCE_S)


def test_a_job_past_its_deadline_fails_and_says_so(parts: Parts, trainer: Callable[[str], None]) -> None:
    trainer(SLEEP)
    job_id = submitted(parts, resources={"max_runtime_s": 0.5})
    supervise.work(parts, Workplace(parts.settings), parts.queue, threading.Event())
    job = seen(parts, job_id)
    assert (job.status, job.error and job.error["code"]) == ("failed", "deadline")


def test_the_lookout_takes_back_silent_jobs_and_rings_for_waiting_ones(parts: Parts) -> None:
    assert isinstance(parts.queue, LocalQueue)
    place = Workplace(parts.settings)
    supervise.look_around(parts, place, parts.queue)
    assert not parts.queue.bell.is_set()
    job_id = submitted(parts)
    with parts.sessions.write() as session:
        claims.claim(session, "a worker that died", ("cpu",), 0.0)
    supervise.look_around(parts, place, parts.queue)
    assert (seen(parts, job_id).status, parts.queue.bell.is_set()) == ("queued", True)
    parts.queue.bell.clear()
    place.take(Job(accelerator="cpu", devices=1))
    supervise.look_around(parts, place, parts.queue)
    assert not parts.queue.bell.is_set(), "no slot is free"


def test_the_real_worker_ends_when_its_pipe_closes(parts: Parts) -> None:
    import subprocess
    import sys

    job_id = submitted(parts)
    with parts.sessions.write() as session:
        claims.claim(session, "me", ("cpu",), 60.0)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", job_id, "1"],
        stdin=subprocess.PIPE,
        env=os.environ | parts.settings.environment(),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE_S) != 0
    assert seen(parts, job_id).status == "running"  # nobody but the lease says that it is over
