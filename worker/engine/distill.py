"""The training loop, from top to bottom. Students, controls, assistants and peers are taught by the same
one."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from app.catalog.base import Architecture, Loss, Outputs
from app.catalog.spec import steps_of
from worker.engine.learner import Best, Learner, Metrics
from worker.engine.ranks import ONE_RANK
from worker.engine.schedule import batches, learning_rate
from worker.engine.teaching import Heard, Teaching

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.catalog.spec import Training
    from worker.engine.inputs import Inputs, Seen
    from worker.engine.ranks import OneRank, Ranks

LOG_STEPS = 50  # steps between two readings of the losses; every epoch's last step is read too

Ended = Literal["epochs", "early_stopping", "user"]


@dataclass(frozen=True)
class Stage:
    """Some epochs with some of the terms, by place. rows: positions of the training rows in inputs.

    epoch_rows: rows of an epoch; fewer `rows` than that are gone through again. lr: constant; None:
    scheduled. patient: it takes all of its epochs, whatever the metric does.
    """

    epochs: int
    places: Sequence[int]
    rows: "NDArray[np.int64]"
    epoch_rows: int
    lr: float | None = None
    patient: bool = False

    def steps(self, batch_size: int) -> int:
        """Of one epoch."""
        return steps_of(self.epoch_rows, batch_size)


class Company(Protocol):
    """Who teaches while it learns: the other students, or a student's own average."""

    def heard(self, heard: Heard, answers: Sequence[Outputs], seen: "Seen") -> Sequence[Heard]:
        """For each student, what it hears besides its teachers. answers: of all students to this batch."""

    def stepped(self) -> None:
        """After every optimizer step."""

    def students(self, trained: Sequence[nn.Module]) -> Sequence[nn.Module]:
        """All that are measured and kept; the one that leaves stands last. trained: those with an
        optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Alone:
    """Each student hears its teachers and nobody else."""

    def heard(self, heard: Heard, answers: Sequence[Outputs], seen: "Seen") -> Sequence[Heard]:
        return [heard] * len(answers)

    def stepped(self) -> None: ...

    def students(self, trained: Sequence[nn.Module]) -> Sequence[nn.Module]:
        return trained

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Lesson:
    """What a student is taught with. terms: of all stages. teaching: None for the control, which has no
    teacher.

    metric: of validate; decides which step is the best one.
    """

    terms: Sequence[Loss]
    stages: Sequence[Stage]
    inputs: "Inputs"
    teaching: Teaching | None
    validate: Callable[[nn.Module], Metrics]
    metric: str
    company: Company = field(default_factory=Alone)


@dataclass(frozen=True)
class Trained:
    """`state` are the weights of the best step, on the CPU; the module itself keeps the last ones.

    pulls: the norm of each weighted term's gradient at the student's weights in the first batch; none of a
    lone term. architecture, seed: what the module was made of, where a job made it.
    """

    state: dict[str, Tensor]
    best: Metrics
    best_step: int
    steps: int
    total_steps: int
    seconds: float
    samples: int
    stopped_by: Ended
    pulls: Metrics
    architecture: Architecture | None = None
    seed: int = 0


class Watch(Protocol):
    """Who looks on."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None:
        """After every optimizer step; must cost nothing."""

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None:
        """The means of the losses since the last reading, or the validation metrics."""

    def best(self, step: int, metric: str, value: float) -> None:
        """A new best step."""


@dataclass
class Progress:
    """How far a run is; with the states of learners and company, and of the random streams that dropout draws
    from, all that a resumed one needs.

    over: the stages that ended before their epochs were over. measured: the step of the last measurement.
    sums: of each term's values since the step `read_at`; None: an epoch begins.
    """

    best: list[Best]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    over: set[int] = field(default_factory=set)
    measured: int = 0
    sums: Tensor | None = None
    read_at: int = 0

    def sums_since(self, step: int, weights: Tensor) -> Tensor:
        """On the device of the terms' weights; zeros where an epoch begins, at this step."""
        if self.sums is None:
            self.sums, self.read_at = torch.zeros_like(weights), step
        return self.sums.to(weights.device)

    def state_dict(self) -> dict[str, Any]:
        best = [one.state_dict() for one in self.best]
        return {**vars(self), "best": best, "over": sorted(self.over)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for one, before in zip(self.best, state["best"], strict=True):
            one.load_state_dict(before)
        vars(self).update({**state, "best": self.best, "over": set(state["over"])})


def _forget(progress: Progress) -> None:
    """Keeps no checkpoint."""


def distill(
    learners: Sequence[Learner],
    lesson: Lesson,
    training: "Training",
    *,
    watch: Watch,
    finish: threading.Event,
    resumed: Progress | None = None,
    keep: "Callable[[Progress], None]" = _forget,
    rate: float = 1.0,
    ranks: "Ranks | OneRank" = ONE_RANK,
) -> list[Trained]:
    """Trains students, usually one, until their epochs are over, the last one's validation metric stands
    still, or `finish` is set; answers for all of the company's. resumed: where an earlier run was left.
    keep: called after every step. rate: what every learning rate is multiplied by. ranks: who takes the
    same steps on other devices.

    Raises NumericDivergence, naming the terms, before a loss that is no finite number moves an optimizer.
    """
    students = lesson.company.students([learner.module for learner in learners])
    done = resumed or Progress([Best(lesson.metric) for _ in students])
    total = sum(stage.epochs * stage.steps(training.batch_size) for stage in lesson.stages)
    patience = training.early_stopping.patience if training.early_stopping else total
    begun, epoch = time.monotonic() - done.seconds, -1
    enough = _enough_before(students, lesson, done, watch, ranks.told(finish.is_set), ranks)

    for moment in () if enough else timetable(lesson.stages, training, done.step):
        if moment.stage in done.over:
            continue
        if moment.begins_stage:
            done.best[-1].stale = 0
            for learner in learners:
                learner.forget()
        if moment.epoch != epoch:
            epoch = moment.epoch
            terms = [learner.begin(epoch, lesson.stages[moment.stage].places) for learner in learners]
            sums = done.sums_since(moment.step, terms[-1].weights)
        values = torch.zeros_like(sums)
        with ranks.sharing(learners, values, finish):
            seen = lesson.inputs(moment.index, epoch)
            for part in ranks.own(seen, (training.seed, moment.step)).parts(training.micro_batch_size):
                heard = (
                    lesson.teaching.hear(part, moment.step) if lesson.teaching else Heard.nothing(moment.step)
                )
                answers = [learner.answer(part) for learner in learners]
                told = lesson.company.heard(heard, answers, part)
                for learner, those, answer, what in zip(learners, terms, answers, told, strict=True):
                    shares = learner.objective.shares(those, part, seen)
                    found = learner.add_gradients(those, answer, what, part, shares)
                values += found
        sums += values
        with ranks.together():
            for learner in learners:
                learner.step(moment.lr * rate)
            lesson.company.stepped()

        done.step, done.samples = moment.step + 1, done.samples + len(seen)
        done.seconds = time.monotonic() - begun
        watch.step(done.step, total, epoch, done.samples)
        enough = ranks.enough(finish)
        if enough or moment.ends_epoch or done.step - done.read_at == LOG_STEPS:
            means = sums / (done.step - done.read_at)
            watch.reading("train", done.step, learners[-1].objective.reading(terms[-1], means))
            sums, done.read_at = torch.zeros_like(sums), done.step
        done.sums = None if moment.ends_epoch else sums
        if enough or moment.ends_epoch:
            _measure(students, lesson, done, watch, ranks)
            if done.best[-1].stale >= patience and not lesson.stages[moment.stage].patient:
                done.over.add(moment.stage)
        keep(done)
        if enough:
            break

    ended: Ended = "user" if enough and done.step < total else "early_stopping" if done.over else "epochs"
    said = (done.step, total, done.seconds, done.samples, ended)
    pulls = {learner.module: learner.pulls for learner in learners}
    return [
        Trained(best.state, best.metrics, best.step, *said, pulls.get(student, {}))
        for student, best in zip(students, done.best, strict=True)
    ]


def _enough_before(
    students: Sequence[nn.Module],
    lesson: Lesson,
    done: Progress,
    watch: Watch,
    finishing: bool,
    ranks: "Ranks | OneRank",
) -> bool:
    """Whether a run that was taken up again is over at once, as `finish` has been set meanwhile."""
    enough = done.step > 0 and finishing
    if enough and done.measured < done.step:
        _measure(students, lesson, done, watch, ranks)
    return enough


def _measure(
    students: Sequence[nn.Module], lesson: Lesson, done: Progress, watch: Watch, ranks: "Ranks | OneRank"
) -> None:
    """At an epoch's end; who looks on is told of the last student, which is the job's own."""
    ranks.align(students)
    for student, best in zip(students, done.best, strict=True):
        measured = ranks.told(partial(lesson.validate, student))
        with ranks.together():
            better = best.replaced_by(student, done.step, measured)
    done.measured = done.step
    watch.reading("validation", done.step, measured)
    if better:
        watch.best(done.step, lesson.metric, measured[lesson.metric])


@dataclass(frozen=True)
class Moment:
    """One step of a run. step and epoch count from 0 over all stages; index: (B,), the positions of its
    rows."""

    step: int
    epoch: int
    stage: int
    index: Tensor
    lr: float
    begins_stage: bool
    ends_epoch: bool


def timetable(stages: Sequence[Stage], training: "Training", start: int) -> Iterator[Moment]:
    """Every step from `start` on: a pure function of the seed, so that a resumed run goes on as it was."""
    size, step, epoch = training.batch_size, 0, 0
    scheduled = sum(stage.epochs * stage.steps(size) for stage in stages if stage.lr is None)
    for place, stage in enumerate(stages):
        first = step
        for _ in range(stage.epochs):
            steps = stage.steps(size)
            chance = (training.seed, epoch)
            rows = batches(stage.rows, stage.epoch_rows, size, chance) if step + steps > start else ()
            for at, index in enumerate(rows, step):
                if at >= start:
                    lr = stage.lr or learning_rate(training.schedule, training.optimizer.lr, at, scheduled)
                    yield Moment(at, epoch, place, index, lr, at == first, at + 1 == step + steps)
            step, epoch = step + steps, epoch + 1
