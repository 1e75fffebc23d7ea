"""What goes wrong: each fault hits a real process or line, and mends what it broke.

A fault answers False when there was nothing that it could hit.
"""

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import redis
from redis.exceptions import RedisError

from app.failpoints import NAMES
from app.ports.queue import CeleryQueue
from tests.chaos.processes import Process, processor_s, trainers
from tests.chaos.proxy import Mood
from tests.chaos.stack import LEASE_S, Stack

BAD_DAY_S = (0.2, 1.5)
FINDING_S = 10.0  # for a trainer that has worked so long
WORK_S = 1.3  # of processor time, which a drill takes
SERVERS = ("claim.", "renew.", "reap.", "bury.", "end.", "submit.")

Fault = Callable[[Stack, random.Random], bool]


@dataclass(frozen=True)
class Named:
    name: str
    weight: int
    act: Fault


def kill_trainer(stack: Stack, chance: random.Random) -> bool:
    """Somewhere in its work, counted in processor time, so that a busy machine does not move it."""
    worked_s, deadline = chance.uniform(0.0, WORK_S), time.monotonic() + FINDING_S
    while time.monotonic() < deadline:
        for pid in trainers(stack.supervisors):
            with suppress(ProcessLookupError, FileNotFoundError):
                if processor_s(pid) >= worked_s:
                    os.kill(pid, signal.SIGKILL)
                    return True
        time.sleep(0.01)
    return False


def kill_supervisor(stack: Stack, chance: random.Random) -> bool:
    with _mine(stack.supervisors, chance) as process:
        process.kill()
        process.start()
        process.wait_until_ready()
    return True


def kill_api(stack: Stack, chance: random.Random) -> bool:
    with _mine(stack.apis, chance) as process:
        process.kill()
        process.start()
        process.wait_until_ready()
    return True


def stop_supervisor(stack: Stack, chance: random.Random) -> bool:
    """Beyond its lease; then it wakes up and does not know."""
    with _mine(stack.supervisors, chance) as process:
        process.send(signal.SIGSTOP)
        time.sleep(LEASE_S + 1.0)
        process.send(signal.SIGCONT)
    return True


def terminate_supervisor(stack: Stack, chance: random.Random) -> bool:
    """As a deploy does it."""
    with _mine(stack.supervisors, chance) as process:
        process.send(signal.SIGTERM)
        process.wait(60)
        process.start()
        process.wait_until_ready()
    return True


def failpoint(stack: Stack, chance: random.Random) -> bool:
    """A supervisor is started again so that it, or a trainer of its own, dies at a named place."""
    name = chance.choice(NAMES)
    marks = stack.folder / f"marks-{chance.getrandbits(32)}"
    marks.mkdir()
    api = name.startswith("submit.")
    with _mine(stack.apis if api else stack.supervisors, chance) as process:
        process.kill()
        process.start(
            STILLHOUSE_FAILPOINT=f"{name}:kill@{chance.randint(1, 2)}", STILLHOUSE_FAILPOINT_ONCE=str(marks)
        )
        deadline = time.monotonic() + 8.0
        while time.monotonic() < deadline and not (marks / name).exists():
            time.sleep(0.05)
        reached = (marks / name).exists()
        (marks / name).touch()  # from here on it does nothing
        with suppress(Exception):  # a server puts blobs as trainers do, so that it may be either
            process.wait(5 if reached and name.startswith(SERVERS) else 0.5)
        if not process.alive:
            process.start()
        process.wait_until_ready()
    return reached


def kill_valkey(stack: Stack, _chance: random.Random) -> bool:
    assert stack.valkey is not None
    with stack.valkey.lock:
        stack.valkey.kill()
        stack.valkey.start()
        stack.valkey.wait_until_ready()
    return True


def flush_valkey(stack: Stack, _chance: random.Random) -> bool:
    """All bells are lost."""
    try:
        with redis.Redis.from_url(stack.valkey_url or "", socket_timeout=5) as client:
            client.flushall()
    except RedisError:
        return False
    return True


def double_bells(stack: Stack, chance: random.Random) -> bool:
    queue = CeleryQueue(stack.valkey_url or "")
    for _ in range(chance.randint(2, 6)):
        queue.ring("job_of_nobody")
    queue.close()
    return True


def crash_postgres(stack: Stack, chance: random.Random) -> bool:
    """The postmaster dies, and with it every backend; what was committed comes back from its log."""
    assert stack.postgres is not None
    with stack.postgres.lock:
        stack.postgres.kill(chance.choice([signal.SIGQUIT, signal.SIGKILL]))
        time.sleep(chance.uniform(0.0, 1.0))
        stack.postgres.start()
        stack.postgres.wait_until_ready()
    return True


def fill_disk(stack: Stack, chance: random.Random) -> bool:
    """Until nothing more goes in, for a while."""
    if stack.disk is None:
        return False
    filler = stack.disk / "filler"
    try:
        with filler.open("xb", buffering=0) as file:
            for size in (1024**2, 4096, 1):
                with suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass
        time.sleep(chance.uniform(*BAD_DAY_S))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EEXIST):
            raise
        return False
    finally:
        filler.unlink(missing_ok=True)
    return True


def _proxied(which: str, mood: Mood) -> Fault:
    def bad_day(stack: Stack, chance: random.Random) -> bool:
        proxy = stack.proxies[which]
        if proxy.mood != "well":
            return False
        proxy.mood = mood
        try:
            time.sleep(chance.uniform(*BAD_DAY_S))
        finally:
            proxy.mood = "well"
        return True

    return bad_day


COMMON = (
    Named("kill trainer", 12, kill_trainer),
    Named("kill supervisor", 3, kill_supervisor),
    Named("failpoint", 4, failpoint),
    Named("full disk", 2, fill_disk),
    Named("terminate supervisor", 1, terminate_supervisor),
    Named("stop supervisor past its lease", 1, stop_supervisor),
)
EMBEDDED = COMMON
PRODUCTION = (
    *COMMON,
    Named("kill api", 3, kill_api),
    Named("kill valkey", 3, kill_valkey),
    Named("FLUSHALL", 4, flush_valkey),
    Named("doubled bells", 3, double_bells),
    Named("crash postgres", 2, crash_postgres),
    Named("s3 stalls", 2, _proxied("s3", "stall")),
    Named("s3 resets", 2, _proxied("s3", "reset")),
    Named("s3 answers 500", 2, _proxied("s3", "error")),
    Named("s3 truncates", 2, _proxied("s3", "truncate")),
    Named("postgres line stalls", 1, _proxied("postgres", "stall")),
    Named("postgres line resets", 1, _proxied("postgres", "reset")),
)


@contextmanager
def _mine(processes: list[Process], chance: random.Random) -> Iterator[Process]:
    """One of them, held against other faults."""
    process = chance.choice(processes)
    with process.lock:
        yield process
