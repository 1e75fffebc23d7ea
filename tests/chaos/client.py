"""The client: it submits and cancels over HTTP, asks again until it is answered, and keeps a log of it."""

import itertools
import random
import threading
import time
from typing import Any

import httpx

from tests import orders
from tests.chaos.history import Call
from tests.chaos.stack import Stack

PATIENCE_S = 60.0  # for one answer, over all tries
TIMEOUT_S = 5.0


class Client:
    """Keeps `depth` jobs going, and cancels a share of them. Stopped, it submits nothing more."""

    def __init__(
        self, stack: Stack, seed: int, *, depth: int, cancelled: float = 0.1, true: float = 0.0
    ) -> None:
        self._stack, self._random, self._depth = stack, random.Random(seed), depth
        self._cancelled, self._true = cancelled, true
        self._names = itertools.count(1)
        self.true_order: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.going = 0  # jobs that have not ended, as the observer sees it
        self._stopping = threading.Event()
        self._http = httpx.Client(timeout=TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0))
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(2 * PATIENCE_S)

    def submit(self, name: str, **changes: Any) -> Call:
        order = self.true_order if name.startswith("true") else orders.spec()
        order = order | {"name": name, "output": {"model": f"m-{name}"}} | changes
        return self._ask("submit", name, None, "/v1/jobs", order)

    def cancel(self, name: str, job_id: str) -> Call:
        return self._ask("cancel", name, job_id, f"/v1/jobs/{job_id}/cancel", {"mode": "discard"})

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self.going >= self._depth:
                self._stopping.wait(0.02)
                continue
            kind = "true" if self._random.random() < self._true else "drill"
            call = self.submit(f"{kind}-{next(self._names)}")
            self.going += 1
            if call.job_id and self._random.random() < self._cancelled:
                later = threading.Timer(self._random.uniform(0, 2.5), self.cancel, (call.name, call.job_id))
                later.daemon = True
                later.start()

    def _ask(self, kind: Any, name: str, job_id: str | None, path: str, body: dict[str, Any]) -> Call:
        """A refusal is an answer, and no acknowledgment."""
        at, answered = time.time(), None
        while time.time() - at < PATIENCE_S:
            url = self._random.choice(self._stack.urls)
            try:
                answer = self._http.post(url + path, json=body, headers={"Idempotency-Key": name})
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 202:
                answered, job_id = time.time(), answer.json()["id"]
                break
            if answer.status_code < 500 and answer.status_code != 429:
                if kind == "submit":
                    raise AssertionError(f"{name}: {answer.text}")
                break
            time.sleep(0.1)
        call = Call(kind, name, job_id, at, answered)
        self.calls.append(call)
        return call
