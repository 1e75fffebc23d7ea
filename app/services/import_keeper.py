"""Keeps an import's lease while it is carried out, and tells how far it is."""

import threading
import time
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.tables import Import
from app.errors import LeaseLost
from app.ports.parts import Parts
from app.services import import_leases

TICK_S = 1.0  # longest time between two renewals, so that a cancellation is noticed soon
FENCE = 0.9  # share of the lease after which who could not renew stops

log = structlog.get_logger()


class Keeper:
    """Renews in a thread for the time of its block. came: bytes that are here. lost: it is not ours now."""

    def __init__(self, parts: Parts, one: Import) -> None:
        self._parts, self._one = parts, one
        self.came, self.lost, self._done = 0, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="import-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def renew(self) -> None:
        """Raises LeaseLost."""
        lease_s = self._parts.settings.lease_s
        with self._parts.sessions.write() as session:
            mine = self._one.id, self._one.attempt
            goes_on = import_leases.renew(session, *mine, lease_s, self.came)
        if not goes_on:
            raise LeaseLost("The import took longer than one may.")

    def _keep(self) -> None:
        lease_s, renewed = self._parts.settings.lease_s, time.monotonic()
        while not self._done.wait(min(lease_s / 4, TICK_S)):
            asked = time.monotonic()
            try:
                self.renew()
                renewed = asked
            except LeaseLost:
                self.lost.set()
                return
            except SQLAlchemyError:
                log.warning("the import's lease could not be renewed", exc_info=True)
            if time.monotonic() - renewed > FENCE * lease_s:
                self.lost.set()
