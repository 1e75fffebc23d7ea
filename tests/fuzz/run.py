"""Sends drawn requests to a real service and looks at every answer.

What must hold: an answer in time to every request that is whole; no 5xx but 503 of a service that sheds load;
problem details behind every error, which say nothing of how we are built; the service alive, its memory flat.
"""

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import httpx

from app.db.ids import new_id
from app.db.migrate import upgrade
from app.db.session import Sessions
from app.db.tables import Project
from app.settings import Settings
from tests import orders
from tests.fuzz.wire_grammar import Grammar, Request
from tests.service import serving, settings_in

ANSWER_S = 10.0  # a request that is whole is answered by then, on a busy machine too
TELLTALES = (b"Traceback", b"sqlalchemy", b"sqlite3", b"/site-packages/", b"SELECT ", b"psycopg", b".py")
LONGEST_ERROR = 64 * 1024
AT_ONCE = 4
MOST_KNOWN = 500
_ID = re.compile(rb'"((?:job|swp|whk|key|dlv)_[a-z0-9]+)"')
LOOKS = 10  # at the memory, the first of them at what is warm


@dataclass
class Findings:
    """What a run found. statuses: answers by status; failures: what must not be, with the request."""

    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    failures: list[str] = field(default_factory=list)
    resident_kb: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    seconds: float = 0.0

    @property
    def growth_kb(self) -> int:
        """Of the memory, since the process was warm."""
        return self.resident_kb[-1] - self.resident_kb[0]

    def __str__(self) -> str:
        lines = [f"{sum(self.statuses.values()) + self.unanswered:,} requests in {self.seconds:.0f} s"]
        lines += [f"  {status}: {count:,}" for status, count in sorted(self.statuses.items())]
        lines.append(f"  no answer to what was no whole request: {self.unanswered:,}")
        lines.append(f"slowest answer {self.slowest_s:.2f} s")
        seen = ", ".join(str(one // 1024) for one in self.resident_kb)
        lines.append(f"memory after each tenth, MiB: {seen}")
        lines.append(f"{len(self.failures)} failures")
        return "\n".join([*lines, *self.failures[:20]])


def fuzz(folder: Path, requests: int, seed: int) -> Findings:
    """A service in the folder, stocked but without a worker, so that what is ordered stays in line."""
    settings = settings_in(
        folder, queue_url="redis://127.0.0.1:1/0", header_s=2.0, body_s=2.0, log_format="json"
    )
    upgrade(settings.database_url)
    _stock(settings)
    with serving(settings) as client:
        document = client.get("/openapi.json").json()
        return _Run(client, document, requests, seed).findings


def _stock(settings: Settings) -> None:
    sessions = Sessions(settings.database_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    sessions.close()


class _Run:
    def __init__(self, client: httpx.Client, document: dict[str, Any], requests: int, seed: int) -> None:
        self.findings = Findings()
        self._client, self._document, self._seed = client, document, seed
        self._address = (str(client.base_url.host), client.base_url.port or 80)
        self._lock = threading.Lock()
        self._known: list[str] = []  # ids that the service gave out
        started = time.monotonic()
        for part in range(LOOKS):
            self._all(requests // LOOKS, part)
            self.findings.resident_kb.append(self._resident_kb())
        self.findings.seconds = time.monotonic() - started
        assert self._client.get("/readyz").is_success

    def _all(self, requests: int, part: int) -> None:
        threads = [
            threading.Thread(
                target=self._some, args=(requests // AT_ONCE, self._seed * 1000 + part * AT_ONCE + number)
            )
            for number in range(AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _some(self, requests: int, seed: int) -> None:
        grammar = Grammar(seed, self._document)
        for _ in range(requests):
            grammar.known = self._known
            request = grammar.request()
            status, seconds, wrong = self._one(request)
            with self._lock:
                findings = self.findings
                findings.slowest_s = max(findings.slowest_s, seconds)
                if status:
                    findings.statuses[status] += 1
                else:
                    findings.unanswered += 1
                findings.failures += [f"{what}: {b''.join(request.pieces)[:1500]!r}" for what in wrong]

    def _one(self, request: Request) -> tuple[int, float, list[str]]:
        """The status (0: none), the seconds, and what is wrong."""
        started = time.monotonic()
        try:
            with _dialed(self._address) as line:
                for piece in request.pieces:
                    line.sendall(piece)
                status, headers, body = _answer(line, request.method)
        except TimeoutError:
            return 0, time.monotonic() - started, ["no answer in time"]
        except (HTTPException, OSError) as error:
            wrong = [f"the line ended: {type(error).__name__}"] if request.is_whole else []
            return 0, time.monotonic() - started, wrong
        seconds = time.monotonic() - started
        if status in (200, 201, 202) and len(self._known) < MOST_KNOWN:
            self._known += [found.decode() for found in _ID.findall(body)[:3]]
        return status, seconds, list(_wrong(status, headers, body, request.method))

    def _resident_kb(self) -> int:
        for line in self._client.get("/metrics").text.splitlines():
            if line.startswith("process_resident_memory_bytes "):
                return int(float(line.split()[1])) // 1024
        raise AssertionError("no memory in /metrics")


@contextmanager
def _dialed(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=ANSWER_S) as line:
        yield line


def _answer(line: socket.socket, method: str) -> tuple[int, dict[str, str], bytes]:
    """Of an event stream its head, for it does not end."""
    response = HTTPResponse(line, method=method if method in ("HEAD", "CONNECT") else "GET")
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        endless = headers.get("content-type", "").startswith("text/event-stream")
        return response.status, headers, b"" if endless else response.read()
    finally:
        response.close()


def _wrong(status: int, headers: dict[str, str], body: bytes, method: str) -> Iterator[str]:
    if status >= 500 and not (status == 503 and "retry-after" in headers):
        yield f"status {status}"
    if "x-request-id" not in headers or headers.get("x-content-type-options", "nosniff") != "nosniff":
        yield f"{status} without its headers"
    if status < 400 or method == "HEAD":
        return
    if headers.get("content-type") != "application/problem+json":
        yield f"{status} as {headers.get('content-type')}"
        return
    problem = json.loads(body)
    if problem["status"] != status or not problem["code"] or not problem["detail"]:
        yield f"{status} with another face"
    if any(not fault["code"] or not fault["detail"] for fault in problem["errors"]):
        yield f"{status} with a fault that says nothing"
    if len(body) > LONGEST_ERROR or any(word in body for word in TELLTALES):
        yield f"{status} tells too much"


def fresh_seed() -> int:
    return abs(hash(new_id("req"))) % 10**6
