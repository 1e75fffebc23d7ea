"""Losses that break and memory that runs out: what a job changes of its order, and what it does not hide."""

import json
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.spec import PinnedData, PinnedModel, Training
from app.db.tables import Job
from app.errors import NumericDivergence, OutOfMemory
from app.services import claims, copies, jobs, wishes
from tests.worker.classroom import Notes, inputs, learner
from tests.worker.test_checkpoint import attempt, came_to, finished, kept, told
from tests.worker.workshop import DIGITS, PROJECT, Stop, Workshop, digits, order, table
from worker.engine import export
from worker.engine.adjusting import Adjustments
from worker.engine.distill import Lesson, Stage, Trained, distill
from worker.engine.job_watch import JobWatch
from worker.engine.learner import Learner
from worker.engine.pace import Pace
from worker.journal import Journal
from worker.run import run

X, Y = digits()
MIB = 1024**2


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at a run's end alone."""
    monkeypatch.setattr(Pace, "due", lambda _: False)
    monkeypatch.setattr(export, "MEASURED_S", 0.01)


@pytest.fixture
def taken(workshop: Workshop, expert: nn.Module) -> tuple[PinnedModel, PinnedData]:
    return workshop.perceptron(expert, (64, 64)), workshop.data(table(X[:250], Y[:250]))


def spec(lr: float = 0.05, **training: Any) -> dict[str, Any]:
    """A linear student, whose squared error grows by the same factor each step where the rate is too high."""
    return {
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": []}},
        "losses": [{"kind": "logit_mse"}],
        "training": {
            "epochs": 3,
            "batch_size": 16,
            "optimizer": {"kind": "sgd", "lr": lr},
            "schedule": {"kind": "constant"},
            "precision": "float32",
            **training,
        },
        "exports": [{"kind": "safetensors"}],
        "evaluation": {"bootstrap": 100, "compare": ["teacher"]},
    }


def report(workshop: Workshop, job: Job) -> Any:
    return json.loads(workshop.artifact(job, "report.json"))


# ---- losses that break


def test_a_loss_that_breaks_begins_again_with_half_the_rate(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    broken = finished(workshop, order([taken[0]], taken[1], spec=spec(lr=1.2)))
    assert (broken.status, broken.adjustments) == ("succeeded", {"lr_halvings": 2})
    first, second = told(workshop, broken, "adjusted")
    assert "this loss was no finite number: logit_mse = inf. It goes on from before" in first
    assert first.endswith("which is now 0.5 of the ordered one.")
    assert second.endswith("which is now 0.25 of the ordered one.")
    (note,) = [one for one in report(workshop, broken)["notes"] if "halved twice" in one]
    assert "the control included" in note
    lower = finished(workshop, order([taken[0]], taken[1], spec=spec(lr=0.3)))
    assert came_to(workshop, broken)["weights"] == came_to(workshop, lower)["weights"]


def test_a_loss_that_breaks_a_third_time_fails_the_job(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    job = workshop.submit(order([taken[0]], taken[1], spec=spec(lr=30.0)))
    with pytest.raises(NumericDivergence, match=r"logit_mse = inf.*Lower training\.optimizer\.lr"):
        attempt(workshop, job)
    assert workshop.look(job).adjustments == {"lr_halvings": 2}


def test_it_goes_back_to_the_last_checkpoint_and_later_attempts_keep_the_lower_rate(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after it went back, it comes to what it would have come to, as does a job that retries it."""
    resolved, steps = order([taken[0]], taken[1], spec=spec(lr=0.8)), list[int]()
    step = JobWatch.step

    def watched(self: JobWatch, at: int, *more: int) -> None:
        steps.append(at)
        step(self, at, *more)

    monkeypatch.setattr(JobWatch, "step", watched)
    monkeypatch.setattr(Pace, "due", lambda _: steps[-1] == 8)
    straight = finished(workshop, resolved)
    assert straight.adjustments == {"lr_halvings": 1}
    back = next(place for place, (one, after) in enumerate(pairwise(steps)) if after <= one)
    assert (steps[back + 1], steps[-1]) == (9, 39)

    steps.clear()
    job = attempt(workshop, workshop.submit(resolved), kill_at=back + 5)
    assert (job.adjustments, kept(workshop, job)[0].step) == ({"lr_halvings": 1}, 8)
    ended = attempt(workshop, job)
    assert ended.adjustments == {"lr_halvings": 1}
    assert came_to(workshop, ended) == came_to(workshop, straight)

    steps.clear()
    job = attempt(workshop, workshop.submit(resolved), kill_at=back + 5)
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
        wishes.cancel(session, PROJECT, job.id, "discard")
    with workshop.parts.sessions.write() as session:
        copies.retry(session, PROJECT, job.id)
    with workshop.parts.sessions.write() as session:
        heir = claims.claim(session, "test", ("cpu",), 600.0)
    assert heir is not None
    assert came_to(workshop, attempt(workshop, heir))["weights"] == came_to(workshop, straight)["weights"]


def test_a_place_from_which_a_loss_broke_twice_is_not_gone_back_to(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept may be beyond help though it is finite; then only the beginning is good."""
    steps, step = list[int](), JobWatch.step

    def watched(self: JobWatch, at: int, *more: int) -> None:
        steps.append(at)
        step(self, at, *more)

    monkeypatch.setattr(JobWatch, "step", watched)
    monkeypatch.setattr(Pace, "due", lambda _: steps[-1] == 12)
    broken = finished(workshop, order([taken[0]], taken[1], spec=spec(lr=1.2)))
    assert broken.adjustments == {"lr_halvings": 2}
    assert [after for one, after in pairwise(steps) if after <= one] == [13, 1]
    lower = finished(workshop, order([taken[0]], taken[1], spec=spec(lr=0.3)))
    assert came_to(workshop, broken)["weights"] == came_to(workshop, lower)["weights"]


def test_what_is_no_number_is_never_kept(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be infinite before a loss tells."""
    monkeypatch.setattr(Pace, "due", lambda _: True)
    step = Learner.step

    def breaks(self: Learner, lr: float) -> None:
        step(self, lr)
        if lr == 0.05:
            nn.init.constant_(self.learned[0], torch.inf)

    monkeypatch.setattr(Learner, "step", breaks)
    ended = finished(workshop, order([taken[0]], taken[1], spec=spec()))
    assert (ended.status, ended.adjustments) == ("succeeded", {"lr_halvings": 1})


# ---- memory that runs out


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 10 rows at once are refused in torch's own words."""
    answer = Learner.answer

    def refuses(self: Learner, seen: Any) -> Any:
        if len(seen) > 10:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return answer(self, seen)

    monkeypatch.setattr(Learner, "answer", refuses)


def test_rows_that_do_not_fit_are_taken_in_parts(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch, cramped: None
) -> None:
    """To the last bit as if the parts had been ordered."""
    adjusted = finished(workshop, order([taken[0]], taken[1], spec=spec(batch_size=64)))
    assert (adjusted.status, adjusted.adjustments) == ("succeeded", {"micro_batch_size": 8})
    messages = told(workshop, adjusted, "adjusted")
    assert [message.split(",")[0] for message in messages] == [
        "Memory ran out with 64 rows at once. It goes on with 32",
        "Memory ran out with 32 rows at once. It goes on with 16",
        "Memory ran out with 16 rows at once. It goes on with 8",
    ]
    monkeypatch.undo()
    monkeypatch.setattr(export, "MEASURED_S", 0.01)
    ordered = finished(workshop, order([taken[0]], taken[1], spec=spec(batch_size=64, micro_batch_size=8)))
    assert came_to(workshop, adjusted)["weights"] == came_to(workshop, ordered)["weights"]
    assert any(
        "batches of 64 were added up from parts of 8" in one for one in report(workshop, adjusted)["notes"]
    )


def test_a_loss_over_whole_batches_is_told_of(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], cramped: None
) -> None:
    wanted = spec(batch_size=20) | {"losses": [{"kind": "dist"}, {"kind": "kd"}]}
    adjusted = finished(workshop, order([taken[0]], taken[1], spec=wanted))
    (message,) = told(workshop, adjusted, "adjusted")
    assert message.endswith(
        "But dist compares the rows of a batch with each other: over parts the value is another than over "
        "the whole."
    )


def test_where_one_row_does_not_fit_the_job_fails(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learner, "answer", refuses)
    job = workshop.submit(order([taken[0]], taken[1], spec=spec(batch_size=5)))
    with pytest.raises(OutOfMemory, match="one row at a time"):
        run(job, job.attempt, workshop.parts, Stop())
    assert workshop.look(job).adjustments == {"micro_batch_size": 1}


@contextmanager
def room(size: int) -> Iterator[None]:
    """So many bytes more than this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_memory_that_runs_out_in_earnest_is_taken_for_what_it_is(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    """The system refuses the pages: a layer's answer to the whole batch is 400 MiB."""
    resolved = order([taken[0]], taken[1], spec=spec(batch_size=800, epochs=1))
    job = workshop.submit(resolved)
    journal = Journal(workshop.parts.sessions, job.id, job.attempt)
    adjustments = Adjustments(journal, resolved.spec, {})
    module = MLP(hidden_sizes=(130_000,)).build(Input(modality="vector", shape=(64,)), DIGITS)
    features, labels = X[:800].astype(np.float32), Y[:800].astype(np.int64)
    lesson = Lesson(
        terms=[CrossEntropy()],
        stages=[Stage(1, [0], np.arange(800), 800)],
        inputs=inputs(features, labels),
        teaching=None,
        validate=lambda _: {"accuracy": 0.0},
        metric="accuracy",
    )
    pupil = learner(module, lesson, Training())

    def teach() -> list[Trained]:
        pupil.optimizer.zero_grad()
        training = adjustments.training(0)
        return distill([pupil], lesson, training, watch=Notes(), finish=threading.Event())

    with room(500 * MIB):
        (trained,) = adjustments.persist(teach)
    assert trained.steps == 1
    # by how much depends on what this process holds already
    assert workshop.look(job).adjustments["micro_batch_size"] <= 400


def test_other_errors_are_not_taken_for_memory(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    resolved = order([taken[0]], taken[1], spec=spec())
    job = workshop.submit(resolved)
    adjustments = Adjustments(Journal(workshop.parts.sessions, job.id, job.attempt), resolved.spec, {})

    def breaks() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        adjustments.persist(breaks)
    assert workshop.look(job).adjustments == {}
