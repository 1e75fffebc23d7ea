"""Servers as processes of their own, for the time of a block."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings


@dataclass(frozen=True)
class Running:
    """A server that answers. ready_s: seconds from the start of its process to its first good answer."""

    pid: int
    port: int
    ready_s: float

    def resident_mb(self) -> float:
        """What it holds in memory now, in units of 10^6 bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_s(self) -> float:
        """Processor seconds of it and of its children; waits for their end, for till then none is counted."""
        while any(one.read_text() for one in Path(f"/proc/{self.pid}/task").glob("*/children")):
            time.sleep(0.05)
        return sum(self._ticks()) / os.sysconf("SC_CLK_TCK")

    def used_s(self) -> float:
        """Processor seconds of itself alone."""
        return sum(self._ticks()[:2]) / os.sysconf("SC_CLK_TCK")

    def maps(self) -> str:
        """Every file that it has in its memory."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    def _ticks(self) -> list[int]:
        """utime, stime, cutime and cstime."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return list(map(int, after_name[11:15]))


def embedded(folder: Path) -> Settings:
    """The defaults, in a folder of their own, on a free port."""
    return Settings(
        database_url=f"sqlite:///{folder / 'stillhouse.db'}",
        blobs_url=f"file://{folder / 'blobs'}",
        work_dir=folder / "work",
        port=free_port(),
    )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def service(settings: Settings) -> Iterator[Running]:
    """`python -m app` with these settings, the bootstrap key among them."""
    environment = os.environ | settings.environment()
    if settings.bootstrap_key is not None:
        environment["STILLHOUSE_BOOTSTRAP_KEY"] = settings.bootstrap_key.get_secret_value()
    with _running([sys.executable, "-m", "app"], environment, settings.port, "/readyz") as running:
        yield running


@contextmanager
def bare(answer: Path) -> Iterator[Running]:
    """Nothing but FastAPI: a `def` endpoint that answers any path with the object in this JSON file."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), str(port), str(answer)]
    with _running(command, dict(os.environ), port, "/") as running:
        yield running


@contextmanager
def _running(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[Running]:
    started = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    try:
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            if process.poll() is not None or time.perf_counter() > started + 60:
                raise RuntimeError(f"{command} did not start")
            time.sleep(0.005)
        yield Running(process.pid, port, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  (a URL of our own)
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
