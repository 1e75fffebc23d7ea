"""What a job's row hears of a run, also of one that was taken up again."""

import time
from typing import Any

import pytest

from worker.engine.job_watch import JobWatch


class Journal:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def due(self) -> bool:
        return True

    def progress(self, fraction: float, **progress: Any) -> None:
        self.told = {"fraction": fraction, **progress}


@pytest.mark.parametrize("before", [0, 400])
def test_speed_and_time_left_are_those_of_this_attempt(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    """Steps of an earlier attempt took no time of this one."""
    journal, now = Journal(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = JobWatch(journal, prefix="", first=0.5, share=0.5, resumed=(before, before * 32))  # type: ignore[arg-type]
    now[0] += 10.0
    watch.step(before + 100, 1000, 3, (before + 100) * 32)
    assert journal.told["samples_per_s"] == 320.0
    assert journal.told["eta_s"] == (900 - before) / 10
    assert journal.told["fraction"] == pytest.approx(0.5 + 0.5 * (before + 100) / 1000)
