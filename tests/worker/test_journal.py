"""What an attempt writes about itself, and how often."""

import pytest
from sqlalchemy import select
from torch import nn

from app.db.tables import Event, Job, MetricPoint
from app.errors import LeaseLost
from app.services import jobs
from tests.worker.workshop import Workshop, digits, order, table
from worker.journal import Journal

X, Y = digits()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(workshop: Workshop, expert: nn.Module) -> tuple[Job, Clock, Journal]:
    """A running job, and its journal, which goes by the clock."""
    rows = workshop.data(table(X[:20], Y[:20]))
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], rows, spec={}))
    clock = Clock()
    return job, clock, Journal(workshop.parts.sessions, job.id, job.attempt, clock)


def test_progress_is_written_at_most_once_a_second_and_points_wait_for_it(
    workshop: Workshop, expert: nn.Module
) -> None:
    job, clock, journal = timed(workshop, expert)
    written = []
    with journal.phase("train"):
        for step in range(1, 31):
            clock.now = step / 10  # three seconds
            journal.points("train", step, {"loss": 1 / step})
            journal.progress(step / 30, step=step, total_steps=30)
            written.append(workshop.look(job).progress["step"])
        journal.best("accuracy", 0.5, 30)
    with workshop.parts.sessions.read() as session:
        assert len(list(session.scalars(select(MetricPoint).where(MetricPoint.job_id == job.id)))) == 30
    assert [written.index(step) + 1 for step in sorted(set(written))] == [1, 11, 21]
    after = workshop.look(job)
    assert after.best == {"metric": "accuracy", "value": 0.5, "step": 30}
    assert next(phase for phase in after.phases if phase["name"] == "train")["status"] == "succeeded"


def test_an_event_tells_progress_when_ten_seconds_and_a_percent_have_gone_by(
    workshop: Workshop, expert: nn.Module
) -> None:
    job, clock, journal = timed(workshop, expert)
    with journal.phase("train"):
        for seconds, fraction in ((1, 0.1), (9, 0.2), (12, 0.3), (23, 0.301), (30, 0.309), (90, 0.32)):
            clock.now = float(seconds)
            journal.progress(fraction, step=seconds)
    with workshop.parts.sessions.read() as session:
        told = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "phase.progress"))
        assert [(one.data["fraction"], one.data["step"]) for one in told] == [(0.1, 1), (0.3, 12), (0.32, 90)]


def test_a_phase_that_has_nothing_new_to_say_ends_without_progress(
    workshop: Workshop, expert: nn.Module
) -> None:
    rows = workshop.data(table(X[:20], Y[:20]))
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], rows, spec={}))
    journal = Journal(workshop.parts.sessions, job.id, job.attempt, Clock())
    with journal.phase("fetch"):
        journal.progress(0.03)
        journal.progress(1.0)  # too soon
    with workshop.parts.sessions.read() as session:
        told = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.seq)).all()
    assert [event.message for event in told[-3:]] == ["fetch started", "fetch 3%", "fetch ended"]
    assert next(phase for phase in workshop.look(job).phases if phase["name"] == "fetch")["progress"] == 1.0


def test_a_warning_is_an_event_of_its_own(workshop: Workshop, expert: nn.Module) -> None:
    rows = workshop.data(table(X[:20], Y[:20]))
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], rows, spec={}))
    Journal(workshop.parts.sessions, job.id, job.attempt).warn("overfitting", "Stop earlier.", last=2.0)
    with workshop.parts.sessions.read() as session:
        warning = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "warning")).one()
    assert (warning.level, warning.message) == ("warning", "Stop earlier.")
    assert warning.data == {"kind": "overfitting", "last": 2.0}


def test_an_attempt_that_lost_its_job_cannot_write(workshop: Workshop, expert: nn.Module) -> None:
    rows = workshop.data(table(X[:20], Y[:20]))
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], rows, spec={}))
    journal = Journal(workshop.parts.sessions, job.id, job.attempt)
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with pytest.raises(LeaseLost):
        journal.note("still here")
