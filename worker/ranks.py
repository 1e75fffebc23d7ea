"""`python -m worker.ranks SIZE JOB ATTEMPT`: one attempt at one job over several devices, a process each.

This process is rank 0, the attempt itself: it hears the supervisor, trains, judges and writes. The others it
starts; they follow through the training and write nothing. Each has a pipe from here, so that none outlives
this process, and when one of them ends before its time this process crashes, as a supervisor expects it.
(torchrun would start them as well, but its own exit code would stand for that of the attempt, by which a
supervisor knows a crash from a pause.)
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.errors import NumericDivergence, OutOfMemory
from app.exit_codes import AWAY, CRASHED, LEASE_LOST, NO_ROOM, ORPHANED
from app.logs import configure_logs
from app.services import jobs, surroundings
from app.services.scratch import attempt_folder
from app.settings import Settings
from app.wiring import assemble
from worker.__main__ import PATIENCE_S, Stop, begin, confine, excuse, leave

VERDICT_S = 2 * PATIENCE_S  # for rank 0 to write what all ranks have met
EXCUSES = (AWAY, LEASE_LOST, NO_ROOM)  # of a rank: the job is not to blame

log = structlog.get_logger()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.ranks", description=__doc__.split("\n\n")[0])
    parser.add_argument("size", type=int, help="processes, one a device")
    parser.add_argument("job", help="a job's id; its row must be running")
    parser.add_argument("attempt", type=int, help="the attempt that owns it")
    parser.add_argument("--rank", type=int, default=0, help="for the processes that this one starts")
    given = parser.parse_args()
    settings = Settings()
    meeting = attempt_folder(settings, given.job, given.attempt) / "meeting"
    if given.rank:
        _take_own_device(given.rank)
        return follow(settings, given.job, given.attempt, (given.rank, given.size, meeting))
    share = max(settings.threads // given.size, 1)
    os.environ |= {"STILLHOUSE_THREADS": str(share), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    with _followers(given.size):
        _take_own_device(0)
        return begin(given.job, given.attempt, (0, given.size, meeting))


def _take_own_device(rank: int) -> None:
    """Of the GPUs that the attempt was given this process sees its own alone."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank]


def follow(settings: Settings, job_id: str, attempt: int, meeting: tuple[int, int, Path]) -> int:
    """Any rank but the first; the exit code. Its end is rank 0's end, or the other way round."""
    threading.Thread(target=_end_with_the_first, name="pipe from rank 0", daemon=True).start()
    confine(settings)
    configure_logs(settings)
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=attempt, rank=meeting[0])
    parts = assemble(settings)
    parts.sessions.patience_s = PATIENCE_S
    try:
        from worker.run import follow

        with parts.sessions.read() as session:
            job = jobs.owned(session, job_id, attempt)
        follow(job, attempt, parts, meeting, Stop())
    except Exception as error:
        if isinstance(error, NumericDivergence | OutOfMemory):
            time.sleep(VERDICT_S)  # rank 0 has met it too: its verdict ends this process
        log.exception("this rank cannot go on")
        return excuse(error) or CRASHED
    finally:
        parts.close()
    return 0


@contextmanager
def _followers(size: int) -> Iterator[None]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *_own(), "--rank", str(rank)],
            stdin=subprocess.PIPE,
            env=surroundings.of_a_rank(os.environ),
        )
        for rank in range(1, size)
    ]
    over = threading.Event()
    for process in started:
        threading.Thread(
            target=_watch, args=[process, over], name=f"follower {process.pid}", daemon=True
        ).start()
    try:
        yield
    finally:
        over.set()
        for process in started:
            process.kill()  # those that have followed to the end are gone already
            assert process.stdin is not None
            process.stdin.close()


def _own() -> list[str]:
    return ["worker.ranks", *sys.argv[1:]]


def _watch(process: "subprocess.Popen[bytes]", over: threading.Event) -> None:
    """Ends this process where the other one has ended early: a device that waits for it may not notice."""
    if (code := process.wait()) != 0 and not over.is_set():
        log.error("another rank ended before its time", exit_code=code)
        os._exit(code if code in EXCUSES else CRASHED)


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(ORPHANED)


if __name__ == "__main__":
    leave(main())
