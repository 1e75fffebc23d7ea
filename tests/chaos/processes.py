"""A server that can be ended by any signal and started again as it was."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.servers import tethered

READY_S = 60.0
_starter = ThreadPoolExecutor(1)  # a tethered process ends with the thread that started it: this one stays


class Process:
    """end: the signal with which it ends when whoever started it does. `lock`: one fault at a time."""

    def __init__(
        self,
        name: str,
        command: Sequence[object],
        log: Path,
        ready: Callable[[], object],
        *,
        end: int = signal.SIGKILL,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self.name, self.lock = name, threading.Lock()
        self._command, self._log, self._ready = [*before, *tethered(command, end)], log, ready
        self._end, self._popen = end, popen
        self.environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **environment: str) -> None:
        """environment: for this once. A start may fail while what the last one left is not gone yet."""
        self._process = _starter.submit(self._spawn, os.environ | self.environment | environment).result()

    def _spawn(self, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                **self._popen,
            )

    def wait_until_ready(self) -> None:
        """It is started again for as long as it ends by itself."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self._ready()
                return
            except Exception as error:  # whatever the probe says of a server that is not ready
                if time.monotonic() > deadline:
                    said = self._log.read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{self.name} is not ready after {READY_S:.0f} s; {said}") from error
            if not self.alive:
                self.start()
            time.sleep(0.05)

    def send(self, what: int) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def kill(self, how: int = signal.SIGKILL) -> None:
        self.send(how)
        assert self._process is not None
        self._process.wait(30)

    def stop(self) -> None:
        if self.alive:
            self.send(signal.SIGCONT)
            self.kill(self._end)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)


@contextmanager
def running(processes: Sequence[Process]) -> Iterator[None]:
    """All of them, started at once; all are ready."""
    try:
        for process in processes:
            if not process.alive:
                process.start()
        for process in processes:
            process.wait_until_ready()
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def trainers(parents: Sequence[Process]) -> dict[int, tuple[str, int]]:
    """The pids of running trainers, with job and attempt."""
    found = {}
    for parent in parents:
        for pid in children(parent.pid):
            with suppress(OSError, ValueError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                place = words.index("worker")
                if words[place - 1] == "-m":
                    found[pid] = (words[place + 1], int(words[place + 2]))
    return found


def children(pid: int) -> list[int]:
    pids: list[int] = []
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                pids += map(int, (task / "children").read_text().split())
    return pids


def processor_s(pid: int) -> float:
    """Used so far, without ended children. Raises FileNotFoundError, ProcessLookupError."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")
