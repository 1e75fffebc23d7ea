"""A dozen faults against both forms of the service, and sabotaged builds that the checker sees
through.

`make chaos FAULTS=10000` is the long form.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.chaos import runner
from tests.chaos.proxy import Mood, Proxy
from tests.chaos.scenes import SCENES, play

PLANS = {
    "embedded": ["kill trainer", "full disk", "kill supervisor"],
    "production": [
        "kill trainer",
        "kill trainer",
        "FLUSHALL",
        "s3 resets",
        "kill valkey",
        "crash postgres",
        "doubled bells",
        "kill supervisor",
        "kill api",
    ],
}


@pytest.mark.parametrize("kind", PLANS)
def test_no_fault_loses_doubles_or_spoils_a_job(kind: str, tmp_path: Path) -> None:
    result = runner.run(
        kind, tmp_path, faults=len(PLANS[kind]), plan=PLANS[kind], seed=0, depth=3, gremlins=1
    )
    assert result.faults.total() == len(PLANS[kind])
    assert result.violations == []
    assert result.statuses["succeeded"] >= 1, result.statuses


def test_the_checker_sees_what_each_protection_is_for(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(SCENES, pool.map(lambda name: play(SCENES[name], tmp_path / name, name), SCENES), strict=True)
        )
    for name, violations in found.items():
        assert {violation.rule for violation in violations} & SCENES[name].rules, name


def test_a_student_survives_a_power_cut(tmp_path: Path) -> None:
    assert play(SCENES["no_fsync"], tmp_path / "sound") == []


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[str, int]]:
    """A server that answers a kilobyte."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1024")
            self.end_headers()
            self.wfile.write(b"x" * 1024)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("mood", "seen"),
    [
        ("well", 200),
        ("error", 500),
        ("reset", httpx.ReadError),
        ("truncate", httpx.RemoteProtocolError),
        ("stall", httpx.ReadTimeout),
    ],
)
def test_the_proxy_has_moods(mood: Mood, seen: object, upstream: tuple[str, int]) -> None:
    with Proxy(upstream) as proxy:
        proxy.mood = mood
        try:
            found: object = httpx.get(f"http://127.0.0.1:{proxy.port}/", timeout=0.5).status_code
        except httpx.TransportError as error:
            found = type(error)
    assert found == seen
