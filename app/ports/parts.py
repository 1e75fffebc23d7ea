"""The outside world in one hand: what app.wiring assembles and everything else is given."""

from dataclasses import dataclass

from app.db.session import Sessions
from app.ports.blobs import Blobs
from app.ports.predictor import Predictor
from app.ports.queue import Queue
from app.settings import Settings


@dataclass(frozen=True)
class Parts:
    settings: Settings
    sessions: Sessions
    blobs: Blobs
    queue: Queue
    predictor: Predictor

    def close(self) -> None:
        """Gives back connections and loaded models."""
        self.queue.close()
        self.predictor.close()
        self.sessions.close()
