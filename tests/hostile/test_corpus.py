"""Some files of each kind through the API; `make hostile` sends them all."""

from collections.abc import Callable
from functools import cache
from itertools import groupby

import httpx

from app.settings import Settings
from tests.hostile.corpus import LIMITS, Attack, corpus
from tests.hostile.run import attack

EACH = 1  # of a kind; every file costs the start of a child
ALWAYS = (
    "a bomb of zeros",
    "entries that overlap under other names",
    "weights outside the file",
    "a bomb of pixels",
)


def test_hostile_files_are_refused_and_leave_nothing(
    service: Callable[..., httpx.Client], settings: Settings
) -> None:
    changed = settings.model_copy(update=LIMITS)
    outcome = attack(service(**LIMITS), changed, drawn())
    assert not outcome.failures, outcome.failures
    assert len(outcome.told) >= 10


def test_there_are_at_least_a_hundred_and_no_two_alike() -> None:
    attacks = [(one.path, one.content) for one in everything()]
    assert len(set(attacks)) == len(attacks) >= 200


@cache
def everything() -> list[Attack]:
    return list(corpus())


def drawn() -> list[Attack]:
    """The last of each kind, and those that no run may leave out."""
    found = []
    for _, group in groupby(everything(), key=lambda one: one.kind):
        kind = list(group)
        found += [one for one in kind if one.name in ALWAYS and one.kind != "folders"]
        found += kind[-EACH:]
    return found
