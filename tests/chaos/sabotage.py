"""Builds from which one protection is taken away, to prove that the checker sees what it is for.

`CHAOS_SABOTAGE=NAME` in the environment of a server or trainer; only the drills' package asks.
"""

import os
from collections.abc import Callable


def sabotaged(name: str) -> bool:
    return os.environ.get("CHAOS_SABOTAGE") == name


def apply() -> None:
    """Before anything of ours is imported, so that everybody gets the sabotaged function."""
    name = os.environ.get("CHAOS_SABOTAGE")
    if name in SABOTAGES:
        SABOTAGES[name]()
    if backoff := os.environ.get("CHAOS_BACKOFF_S"):
        _hurry(float(backoff))


def _hurry(backoff_s: float) -> None:
    """A crash is tried again at once: thousands of them are to be seen."""
    from app.services import leases

    leases.BACKOFF_S = backoff_s


SABOTAGES: dict[str, Callable[[], None]] = {}
