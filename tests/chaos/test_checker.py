"""Each rule finds what breaks it, and a sound history breaks none."""

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.history import Call, Event, History, Look, Row, Start, Version

SHA, OTHER = "a" * 64, "b" * 64


def event(seq: int, type: str, phase: str | None = None, **data: Any) -> Event:
    return Event(seq, type, phase, data, 100.0 + seq)


EVENTS = (
    event(1, "job.created"),
    event(2, "attempt.started", attempt=1),
    event(3, "phase.started", "train"),
    event(4, "phase.progress", "train", step=10),
    event(5, "checkpoint.saved", "train", step=10),
    event(6, "job.status", status="queued"),
    event(7, "attempt.started", attempt=2),
    event(8, "phase.started", "train"),
    event(9, "phase.progress", "train", step=20),
    event(10, "checkpoint.saved", "train", step=20),
    event(11, "job.status", status="succeeded"),
    event(12, "job.ended", status="succeeded"),
)
ROW = Row("job_1", "one", "succeeded", 2, 12, "mdl_1", {"attempt": 2}, None, [SHA], EVENTS)
SOUND = History(
    calls=[Call("submit", "one", "job_1", 100.0, 100.1)],
    rows=[ROW],
    versions=[Version("mdl_1", "job_1", [SHA])],
    looks=[Look(101.0, "job_1", "running", 4), Look(110.0, "job_1", "succeeded", 9)],
    starts=[Start("job_1", 1), Start("job_1", 2)],
    blobs={SHA: SHA},
)


def with_row(**changes: Any) -> History:
    return replace(SOUND, rows=[replace(ROW, **changes)])


def with_event(place: int, new: Event) -> History:
    return with_row(events=[*EVENTS[:place], new, *EVENTS[place + 1 :]])


def test_a_sound_history_breaks_no_rule() -> None:
    assert check(SOUND) == []


BROKEN = {
    "no row": (replace(SOUND, rows=[], versions=[]), {"lost"}),
    "not ended": (with_row(status="running", events=EVENTS[:10], last_seq=10), {"lost", "doubled"}),
    "two rows of one submit": (
        replace(SOUND, rows=[ROW, replace(ROW, id="job_2", output_version_id="mdl_2")]),
        {"doubled"},
    ),
    "two students": (
        replace(SOUND, versions=[*SOUND.versions, Version("mdl_2", "job_1", [SHA])]),
        {"doubled"},
    ),
    "no student": (replace(SOUND, versions=[]), {"doubled"}),
    "a student of a failed job": (with_row(status="failed", output_version_id=None), {"doubled"}),
    "a student without a job": (
        replace(SOUND, versions=[*SOUND.versions, Version("mdl_2", "job_2", [SHA])]),
        {"doubled"},
    ),
    "two successes": (with_event(5, event(6, "job.status", status="succeeded")), {"doubled"}),
    "an attempt that began twice": (replace(SOUND, starts=[Start("job_1", 1)] * 2), {"doubled"}),
    "an attempt twice": (with_event(6, event(7, "attempt.started", attempt=1)), {"attempts only grow"}),
    "the row's attempt": (with_row(attempt=3, outcome=None), {"attempts only grow"}),
    "a stale author": (with_row(outcome={"attempt": 1}), {"a stale attempt writes nothing"}),
    "a stale verdict": (
        with_row(status="failed", output_version_id=None, outcome=None, error={"attempt": 1}),
        {"a stale attempt writes nothing", "doubled"},
    ),
    "another phase": (
        with_event(7, event(8, "phase.started", "fetch")),
        {"a stale attempt writes nothing"},
    ),
    "a phase twice": (
        with_event(8, event(9, "phase.started", "train")),
        {"a stale attempt writes nothing"},
    ),
    "a change after the end": (
        replace(SOUND, looks=[*SOUND.looks, Look(111.0, "job_1", "succeeded", 10)]),
        {"terminal rows never change"},
    ),
    "an event after the end": (
        with_row(events=[*EVENTS, event(13, "log")], last_seq=13),
        {"terminal rows never change"},
    ),
    "an older checkpoint": (
        with_event(9, event(10, "checkpoint.saved", "train", step=5)),
        {"steps only grow"},
    ),
    "an older step": (with_event(9, event(10, "phase.progress", "train", step=5)), {"steps only grow"}),
    "a cancel that did not hold": (
        replace(SOUND, calls=[*SOUND.calls, Call("cancel", "one", "job_1", 105.0, 105.1)]),
        {"a cancel holds"},
    ),
    "a gap": (with_row(last_seq=13), {"events have no gap"}),
    "a missing blob": (replace(SOUND, blobs={}), {"wrong artifact"}),
    "a short blob": (replace(SOUND, blobs={SHA: OTHER}), {"wrong artifact"}),
    "wrong training": (replace(SOUND, wrong=["one"]), {"wrong artifact"}),
}


@pytest.mark.parametrize("history", BROKEN)
def test_what_breaks_a_rule_is_found(history: str) -> None:
    broken, rules = BROKEN[history]
    assert {violation.rule for violation in check(broken)} == rules


def test_what_nobody_acknowledged_may_be_missing() -> None:
    unknown = [Call("submit", "two", None, 100.0, None), Call("cancel", "one", "job_1", 100.0, None)]
    assert check(replace(SOUND, calls=[*SOUND.calls, *unknown])) == []
