"""For each sabotage a scene in which it shows, and the sound build does well."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select

from app.db.tables import Event, Job
from tests.chaos import observer, power
from tests.chaos.checker import DOUBLED, LOST, WRONG, Violation, check
from tests.chaos.client import Client
from tests.chaos.observer import Observer
from tests.chaos.processes import Process, trainers
from tests.chaos.stack import Stack, embedded

ALLOWED_S = 60.0
LOST_AFTER_S = 12.0  # what has not ended by then is taken for lost
BIG = 8_000_000  # bytes: more than any other file of a drill
LIMIT = 4_000_000
LEDGER = "ledger"  # in the folder of a scene: what was synced


@dataclass(frozen=True)
class Scene:
    """rules: of which the sabotaged build breaks at least one. failpoint: armed once in all processes."""

    act: Callable[[Stack, Client], None]
    rules: frozenset[str]
    servers: int = 1
    failpoint: str = ""
    changes: dict[str, str] = field(default_factory=dict)


def play(scene: Scene, folder: Path, sabotage: str = "") -> list[Violation]:
    """What the checker says of it. sabotage: none for the sound build."""
    marks = folder / "marks"
    marks.mkdir(parents=True)
    changes = {
        "CHAOS_SABOTAGE": sabotage,
        "CHAOS_LEDGER": str(folder / LEDGER),
        "STILLHOUSE_FAILPOINT": scene.failpoint,
        "STILLHOUSE_FAILPOINT_ONCE": str(marks),
        **scene.changes,
    }
    with embedded(folder, changes, servers_count=scene.servers) as stack:
        client = Client(stack, 0, depth=0)
        watching = Observer(stack, client)
        watching.start()
        scene.act(stack, client)
        deadline = time.monotonic() + LOST_AFTER_S
        watching.look()
        while watching.going and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)  # what a stale process still has to say
        watching.stop()
        watching.look()
        return check(observer.history(stack, client.calls, watching.looks))


def stale_trainer(stack: Stack, client: Client) -> None:
    """A trainer and its supervisor hang past their lease, another takes over, and the trainer wakes up."""
    client.submit("drill-1")
    supervisor, trainer = _training(stack)
    _until(lambda: _stopped(stack, supervisor.pid, trainer))
    others = [one for one in stack.supervisors if one is not supervisor]
    try:
        _until(lambda: trainers(others))
    finally:
        os.kill(trainer, signal.SIGCONT)
    _until(lambda: not _runs(trainer) or not trainers(others))
    supervisor.send(signal.SIGCONT)


def short_write(stack: Stack, client: Client) -> None:
    """The disk takes a part of a blob, without an error."""
    client.submit("drill-1")


def power_cut(stack: Stack, client: Client) -> None:
    """The machine goes off when a job has just ended."""
    blobs = (stack.disk or stack.folder) / "blobs"
    before = {*blobs.rglob("*")}
    client.submit("drill-1")
    _until(lambda: _succeeded(stack))
    (server,) = stack.supervisors
    server.kill()
    power.cut(stack.folder / LEDGER, {*blobs.rglob("*")} - before)
    server.start()
    server.wait_until_ready()


def crash_with_a_queue(stack: Stack, client: Client) -> None:
    """The server dies while jobs wait whose bells have rung already."""
    for number in range(4):
        client.submit(f"drill-{number}")
    (server,) = stack.supervisors
    server.kill()
    server.start()
    server.wait_until_ready()


def crash_after_commit(stack: Stack, client: Client) -> None:
    """A trainer dies right after its last transaction: the failpoint sees to it."""
    client.submit("drill-1")


def cancel_late(stack: Stack, client: Client) -> None:
    """A cancel is acknowledged while the supervisor hangs, and so does not reach the trainer."""
    call = client.submit("drill-1")
    supervisor, trainer = _training(stack)
    _until(lambda: _stopped(stack, supervisor.pid))
    stack.urls = [url for url, one in zip(stack.urls, stack.apis, strict=True) if one is not supervisor]
    assert call.job_id is not None
    client.cancel("drill-1", call.job_id)
    _until(lambda: not _runs(trainer))
    supervisor.send(signal.SIGCONT)


def crash_of_a_trainer(stack: Stack, client: Client) -> None:
    client.submit("drill-1")
    _, trainer = _training(stack)
    os.kill(trainer, signal.SIGKILL)


def crash_before_the_answer(stack: Stack, client: Client) -> None:
    """The server commits a submit and dies; the client asks again under the same key."""
    (server,) = stack.apis

    def revive() -> None:
        _until(lambda: not server.alive)
        server.start()

    reviving = threading.Thread(target=revive)
    reviving.start()
    client.submit("drill-1")
    reviving.join()


SLOW = {"CHAOS_STEP_S": "0.1"}  # so that there is time to strike while a drill trains
STALE = frozenset({"a stale attempt writes nothing", "steps only grow", DOUBLED})
SCENES: dict[str, Scene] = {
    "no_fence": Scene(stale_trainer, STALE, servers=2, changes=SLOW | {"STILLHOUSE_LEASE_S": "1.5"}),
    "unverified": Scene(
        short_write,
        frozenset({WRONG}),
        failpoint=f"export.started:short_write:{LIMIT}",
        changes={"CHAOS_BYTES": str(BIG)},
    ),
    "no_fsync": Scene(power_cut, frozenset({WRONG})),
    "hint_only": Scene(crash_with_a_queue, frozenset({LOST})),
    "commit_before_blobs": Scene(
        crash_after_commit, frozenset({WRONG}), failpoint="succeed.after_commit:kill"
    ),
    "cancel_unguarded": Scene(
        cancel_late, frozenset({"a cancel holds"}), servers=2, changes=SLOW | {"STILLHOUSE_LEASE_S": "30"}
    ),
    "attempt_not_counted": Scene(crash_of_a_trainer, frozenset({"attempts only grow"}), changes=SLOW),
    "keys_forgotten": Scene(
        crash_before_the_answer, frozenset({DOUBLED}), failpoint="submit.after_commit:kill"
    ),
}


def _training(stack: Stack) -> tuple[Process, int]:
    """A supervisor with a trainer that has begun to train, and the trainer's pid."""
    _until(lambda: _phases(stack) >= 5)
    for supervisor in stack.supervisors:
        for pid in trainers([supervisor]):
            return supervisor, pid
    raise AssertionError("the trainer has ended already")


def _phases(stack: Stack) -> int:
    """How many any attempt has started."""
    with stack.sessions.read() as session:
        begun = select(func.count()).select_from(Event).where(Event.type == "phase.started")
        return session.scalar(begun) or 0


def _succeeded(stack: Stack) -> bool:
    with stack.sessions.read() as session:
        return session.scalar(select(Job.id).where(Job.status == "succeeded")) is not None


def _stopped(stack: Stack, *pids: int) -> bool:
    """Stops them, but not while one of them holds a lock of SQLite, be it a reader's: others could commit
    nothing more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    database = sqlite3.connect(str(stack.sessions.engine.url.database), timeout=0.2)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version}")  # a write, and so a commit
    except sqlite3.OperationalError:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        return False
    finally:
        database.close()
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + ALLOWED_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
