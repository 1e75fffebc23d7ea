"""Counts predictions and the uses of keys in memory, and a thread that writes both down every few seconds.

So a prediction costs no write; a process that is killed forgets what it counted in the last INTERVAL_S.
"""

import threading

from sqlalchemy import update

from app.db.dialect import db_now, now
from app.db.tables import Key
from app.ports.parts import Parts
from app.services import usage
from app.services.stumbling import survived

INTERVAL_S = 5.0


class Meter(threading.Thread):
    def __init__(self, parts: Parts) -> None:
        super().__init__(name="meter", daemon=True)
        self._parts, self._stopping, self._lock = parts, threading.Event(), threading.Lock()
        self._predictions: dict[tuple[str, str], tuple[int, int]] = {}
        self._keys: set[str] = set()

    def count_prediction(self, project_id: str, rows: int) -> None:
        place = (project_id, now().date().isoformat())
        with self._lock:
            requests, before = self._predictions.get(place, (0, 0))
            self._predictions[place] = (requests + 1, before + rows)

    def count_use(self, key_id: str) -> None:
        self._keys.add(key_id)

    def run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._try_to_write()

    def stop(self) -> None:
        """Writes down what it has."""
        self._stopping.set()
        self.join()
        self._try_to_write()

    def _try_to_write(self) -> None:
        """What could not be written is kept for the next time."""
        with self._lock:
            counted, self._predictions = self._predictions, {}
            used, self._keys = self._keys, set()
        with survived("meter"):
            if counted or used:
                self._write(counted, used)
            return
        with self._lock:
            for place, (requests, rows) in counted.items():
                more, more_rows = self._predictions.get(place, (0, 0))
                self._predictions[place] = (requests + more, rows + more_rows)
            self._keys |= used

    def _write(self, counted: dict[tuple[str, str], tuple[int, int]], used: set[str]) -> None:
        with self._parts.sessions.write() as session:
            usage.add_predictions(session, counted)
            for key_id in sorted(used):
                session.execute(update(Key).where(Key.id == key_id).values(last_used_at=db_now()))
