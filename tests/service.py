"""The service as a process of its own, with real connections."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests import servers

READY_S = 60.0


def settings_in(folder: Path, **changes: Any) -> Settings:
    """The embedded defaults in a folder, with a database that the service makes itself, on a free port."""
    return Settings(
        database_url=f"sqlite:///{folder / 'stillhouse.db'}",
        blobs_url=f"file://{folder / 'blobs'}",
        work_dir=folder / "work",
        port=servers.free_port(),
        threads=1,
        poll_s=0.2,
        **changes,
    )


@contextmanager
def serving(
    settings: Settings, arguments: Sequence[str] = ("-m", "app"), folder: Path | None = None
) -> Iterator[httpx.Client]:
    """The API as a process, with a client; it must end well when it is asked to."""
    environment = os.environ | settings.environment()
    if settings.bootstrap_key is not None:
        environment["STILLHOUSE_BOOTSTRAP_KEY"] = settings.bootstrap_key.get_secret_value()
    log = settings.work_dir.parent / f"service-{settings.port}.log"
    command = servers.tethered([sys.executable, *arguments], signal.SIGTERM)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30) as client:
            _wait_until_ready(client, process, log)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            ended = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            ended = process.wait()
    assert ended in (0, -signal.SIGTERM), f"the service ended with {ended}:\n{_tail(log)}"


def _wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, (
            f"the service ended with {process.returncode} at its start:\n{_tail(log)}"
        )
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.02)
    pytest.fail(f"the service is not ready after {READY_S:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
