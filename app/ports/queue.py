"""The bell: it says that there is work, never which. A lost or doubled ring changes nothing, for the row is the truth."""

import threading
from typing import Protocol


class Queue(Protocol):
    def ring(self, job_id: str) -> None:
        """Wakes a worker. Never blocks and never fails; the id is for the log only."""


class LocalQueue:
    """A flag in this process, which the supervising thread waits for."""

    def __init__(self) -> None:
        self.bell = threading.Event()

    def ring(self, job_id: str) -> None:
        self.bell.set()
