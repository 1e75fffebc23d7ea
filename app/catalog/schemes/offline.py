"""The plain arrangement."""

from typing import Literal

from app.catalog.base import Scheme


class Offline(Scheme):
    """Finished teachers, whose stored answers one student learns from."""

    kind: Literal["offline"] = "offline"
