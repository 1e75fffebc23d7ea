"""All that the students of one job are taught with, and their training as the job's order wants it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from app.catalog.base import Frozen, Loss, lift
from app.catalog.spec import LOSSES, Training
from worker.data import Split
from worker.engine import hops, teachers
from worker.engine.answers import places
from worker.engine.checkpoint import Checkpoints, Run
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Progress, Stage, Trained, distill
from worker.engine.ensemble import Ensemble
from worker.engine.fetch import Material
from worker.engine.inputs import Inputs, training_inputs
from worker.engine.job_watch import JobWatch
from worker.engine.judging.metrics import Judge, judge_of
from worker.engine.learner import Best, Learner, Metrics
from worker.engine.lumped import LumpedRows
from worker.engine.measuring import predict, validator
from worker.engine.questions import form_of
from worker.engine.ranks import ONE_RANK
from worker.engine.standing import Standing
from worker.engine.teaching import Teaching
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.engine.ranks import OneRank, Ranks

    Array = NDArray[Any]


class Course:
    """answers: what the phase `signals` gives, by the name of the split. runs: trainings in all, for the
    progress. checkpoints: None: nothing is kept."""

    def __init__(
        self,
        order: Order,
        material: Material,
        answers: "Mapping[str, Array]",
        finish: threading.Event,
        *,
        runs: int,
        checkpoints: Checkpoints | None = None,
        ranks: "Ranks | OneRank" = ONE_RANK,
    ) -> None:
        self.order, self.material, self.answers, self.finish = order, material, answers, finish
        self._checkpoints, self._ranks = checkpoints, ranks
        self._share, self._begun = 1 / runs, 0
        self.notes: list[str] = []  # for the report
        self.log_losses: list[float] = []  # of the last one that was taught, on the validation rows
        self.spec = order.resolved.spec
        self.hops = self.spec.scheme.hops(self.spec.student.architecture)

    @cached_property
    def live(self) -> "dict[int, teachers.Live]":
        """The teachers at hand, by their place."""
        given = self.order.resolved.teachers
        loaded = {
            k: teachers.load(given[k], self.order.folder / given[k].version_id, self.order.device)
            for k in sorted(self.material.live)
        }
        return {
            k: teachers.Translated(teacher, self.order.translation(given[k])) for k, teacher in loaded.items()
        }

    @cached_property
    def inputs(self) -> Inputs:
        """The training rows."""
        return self._inputs({k: self.order.preprocessing_of(k) for k in self.material.live})

    @cached_property
    def teachers(self) -> Teaching | None:
        """Those that were ordered; None: there is none."""
        if not self.order.resolved.teachers:
            return None
        return Teaching(self.order.ensemble, stored(self.order, self.answers.get("training")), self.live)

    @cached_property
    def heard(self) -> "dict[str, Array]":
        """One answer of all teachers, (n, C), to the rows of a split."""
        found = {}
        for split in (self.material.validation, self.material.report):
            if split.name in self.answers:
                heard = lift(torch.from_numpy(self.answers[split.name][split.rows]))
                found[split.name] = self.order.ensemble.mean(heard).numpy()
        return found

    def lesson(self) -> Lesson:
        """What a student is taught with by the teachers that were ordered."""
        rows, terms = self.material.training.rows, self.spec.terms()
        own = self.own_loss()
        return Lesson(
            terms=[*terms, own] if self.spec.training.finetune.epochs else terms,
            stages=stages(self.spec.training, terms, rows, self.material.training.labeled),
            inputs=self.inputs,
            teaching=self.teachers,
            validate=self.validator(self.heard.get("validation")),
            metric=self.metric,
        )

    def lesson_of(self, trained: Trained) -> Lesson:
        """What a student is taught with by another one alone, and measured against."""
        module = self.order.new_student(trained.architecture, trained.seed)
        module.load_state_dict(trained.state)
        rows, split = self._rows(self.material.validation, self.order.preprocessing), self.material.validation
        heard = predict(module, rows, split.rows, self.order.normalize)
        taught = self.lesson()
        alone = [  # the teachers' places are over: there is one
            form.model_copy(update={"teacher": 0}) if hasattr(form, "teacher") else form
            for form in taught.terms
        ]
        return replace(
            taught,
            terms=alone,
            inputs=self.inputs_beside(),
            teaching=self.taught_by(module),
            validate=self.validator(heard),
        )

    def taught_by(self, student: nn.Module) -> Teaching:
        """One of our own as the teacher: its answers are given once, and asked for where rows are drawn anew
        or a loss looks into it."""
        live = {0: teachers.WhiteBox(student)} if self._asks else {}
        answers = None if self.spec.data.augment else self.predicted(student, self.material.training)[:, None]
        return Teaching(Ensemble(None, [1.0]), stored(self.order, answers), live)

    def inputs_beside(self) -> Inputs:
        """The training rows for a student that is taught by another one, which sees what it sees."""
        return self._inputs({0: self.order.preprocessing}) if self._asks else self.inputs

    @property
    def _asks(self) -> bool:
        """Whether a student that teaches is asked while another one learns."""
        return bool(self.material.live or self.spec.data.augment)

    def newcomers(self, place: int, seed: int) -> list[nn.Module]:
        """The students of a hop before any training; on the device."""
        return [
            self.order.new_student(seed=seed)
            if name == "student"
            else self.order.new_student(architecture, self.seed_of(name, seed))
            for name, architecture in self.hops[place]
        ]

    def seed_of(self, name: str, seed: int) -> int:
        """Of a student's first weights: the seed itself for the job's own, and one of its own for any
        other."""
        names = [one for hop in self.hops for one, _ in hop]
        number = 0 if name == "student" else names.index(name) + 1
        return (seed + number * self.spec.evaluation.seeds) % 2**32

    def hop(self, place: int, modules: Sequence[nn.Module], lesson: Lesson, seed: int) -> dict[str, Trained]:
        """Teaches the students of a hop, by name. Where one of them is not the job's own they are kept, once:
        what an earlier attempt kept is not done again."""
        hop = self.hops[place]
        keeps = seed == self.order.seed and any(name != "student" for name, _ in hop)
        last, seeds = hop[-1][0], [self.seed_of(name, seed) for name, _ in hop]
        if keeps and (found := self.found(place)) is not None:
            self._pass(self._over(last, seeds[-1]))
            return found
        trained = self.teach(modules, lesson, name=last, seed=seeds[-1])
        done = {
            name: replace(one, architecture=architecture, seed=own)
            for one, (name, architecture), own in zip(trained, hop, seeds, strict=True)
        }
        if keeps and self._ranks.first:
            self.keep(place, done)
        return done

    def found(self, place: int) -> dict[str, Trained] | None:
        return hops.found(self.order, place, self.hops[place])

    def keep(self, place: int, students: dict[str, Trained]) -> None:
        hops.keep(self.order, self.material, place, students)

    def control_lesson(self) -> Lesson:
        """The task's own loss on the labeled rows alone, which come around again until the steps are as
        many."""
        return control_lesson(self.lesson(), self.own_loss(), self.material.training.labeled)

    @cached_property
    def judge(self) -> Judge:
        return judge_of(self.order.task, self.order.preprocessing)

    def own_loss(self) -> Loss:
        return LOSSES[self.order.task.own_loss]()  # type: ignore[call-arg]

    @property
    def metric(self) -> str:
        """What the best step is chosen by."""
        stopping = self.spec.training.early_stopping
        named = self.order.task.metric if stopping is None or stopping.metric == "auto" else stopping.metric
        return named if len(self.material.validation.labeled) else self.judge.imitation

    def is_enough(self) -> bool:
        """Whether rank 0 was told to finish. All ranks ask at the same places, and hear the same."""
        return self._ranks.told(self.finish.is_set)

    def has_begun(self, name: str, seed: int) -> bool:
        """Whether the run that ends with this student was begun by an earlier attempt."""
        return self._checkpoints is not None and self._checkpoints.knows(_run_name(name, seed))

    def teach(self, modules: Sequence[nn.Module], lesson: Lesson, *, name: str, seed: int) -> list[Trained]:
        """Trains them together, usually one. name: what the last one's metric points are found under.

        What an earlier attempt has trained is not trained again. Raises NumericDivergence, OutOfMemory, Left.
        """
        run = self._over(name, seed)
        if run is None:
            training = self.training(seed)
            first = next(iter(lesson.stages))
            probe = lesson.inputs(torch.from_numpy(first.rows[: training.batch_size]), 0)
            learners = [
                Learner(
                    module,
                    lesson.terms,
                    training,
                    device=self.order.device,
                    teaching=lesson.teaching,
                    probe=probe,
                    rows=len(self.material.training.labels),
                )
                for module in modules
            ]
            run = self.run(learners, lesson, name, seed)
            for learner in learners:
                learner.close()
        else:
            last = run.trained[-1]
            self._watch(name, seed).best(last.best_step, lesson.metric, last.best[lesson.metric])
        self._pass(run)
        return run.trained

    def _over(self, name: str, seed: int) -> Run | None:
        return self._checkpoints.over(_run_name(name, seed)) if self._checkpoints else None

    def _pass(self, run: Run | None) -> None:
        """One more is over. None: nothing is known of it any more but its students."""
        self._begun += 1
        if run is not None:
            self.notes += [note for note in run.notes if note not in self.notes]
            self.log_losses = run.log_losses

    def run(self, learners: list[Learner], lesson: Lesson, name: str, seed: int) -> Run:
        """The loop, looked on by the job, from where it was left or from the beginning."""
        kept, company = self._checkpoints, lesson.company
        assert kept is not None, "a rehearsal has a loop of its own"
        progress = Progress([Best(lesson.metric) for _ in company.students([one.module for one in learners])])
        standing = Standing(_run_name(name, seed), learners, company, progress)
        beginning = standing.copy()

        def attempt() -> list[Trained]:
            with self._ranks.together():
                kept.restore(standing, beginning)
            watch = self._watch(name, seed, (progress.step, progress.samples))
            watch.log_losses = standing.log_losses
            if progress.best[-1].step:
                watch.best(progress.best[-1].step, lesson.metric, progress.best[-1].metrics[lesson.metric])
            return distill(
                learners,
                lesson,
                self.training(seed),
                watch=watch,
                finish=self.finish,
                resumed=progress,
                keep=lambda _: kept.keep(standing),
                rate=self.order.adjustments.rate,
                ranks=self._ranks,
            )

        trained = self.order.adjustments.persist(attempt)
        run = Run(trained, standing.log_losses, learners[-1].told_pairs())
        kept.end(standing, run)
        return run

    def _watch(self, name: str, seed: int, resumed: tuple[int, int] = (0, 0)) -> JobWatch:
        own = name in ("student", "control")
        prefix = f"seed_{seed}_" if own and seed != self.order.seed else ""
        prefix += "" if name == "student" else f"{name}_"
        begun = self._begun * self._share
        return JobWatch(self.order.journal, prefix=prefix, first=begun, share=self._share, resumed=resumed)

    def training(self, seed: int) -> Training:
        return self.order.adjustments.training(seed)

    def validator(self, heard: "Array | None") -> Callable[[nn.Module], Metrics]:
        """heard: what the logits are compared with, row for row."""
        rows = self._rows(self.material.validation, self.order.preprocessing)
        return validator(rows, self.material.validation, heard, self.order)

    def predicted(self, module: nn.Module, split: Split) -> "Array":
        """A student's logits (N, C) for all rows of a split, memory-mapped; it is left in eval mode."""
        rows = self._rows(split, self.order.preprocessing)
        path = self.order.folder / f"predicted-{self._begun}-{split.name}.npy"
        array: Array = np.lib.format.open_memmap(
            path, "w+", np.float32, (len(rows), len(self.order.resolved.labels))
        )
        for place in places(len(rows), array.shape[-1]):
            index = np.arange(place.start, place.stop)
            array[place] = predict(module, rows, index, self.order.normalize)
        return array

    def _inputs(self, live: "Mapping[int, Frozen]") -> Inputs:
        training = self.material.training
        return training_inputs(
            self.order,
            self.material.tables,
            partial(self._rows, training),
            Rows(training.labels, self.order.device),
            learned=training.rows,
            live=live,
        )

    def _rows(self, split: Split, preprocessing: Any) -> Rows:
        encoded = self.material.tables.laid_end_to_end(split, self.order.task, preprocessing)
        return Rows(encoded, self.order.device)


def _run_name(name: str, seed: int) -> str:
    """Within the job."""
    return f"{name}-{seed}"


def stored(order: Order, answers: "Array | None") -> Rows | LumpedRows | None:
    """The answers to the training rows, as they are gathered. answers: logits (N, K, C) or records."""
    if answers is None:
        return None
    rows = Rows(answers, order.device)
    if answers.ndim == 3:
        return rows
    (teacher,) = order.resolved.teachers
    own = torch.tensor([teacher.order.index([place]) for place in range(len(teacher.labels))])
    return LumpedRows(rows, form_of(order), own)


def stages(training: Training, terms: Sequence[Loss], rows: "Array", labeled: "Array") -> list[Stage]:
    """The first stage of the terms that have one, the training itself, and the last one on labels alone,
    whose term stands behind the others."""
    first = max((getattr(form, "stage_epochs", 0) for form in terms), default=0)
    staged = [place for place, form in enumerate(terms) if getattr(form, "stage_epochs", 0)]
    over = [place for place in staged if getattr(terms[place], "only_stage", False)]
    lasting = [place for place in range(len(terms)) if place not in over]
    made = [Stage(training.epochs - first, lasting, rows, len(rows))]
    if first:
        made.insert(0, Stage(first, staged, rows, len(rows), patient=True))  # hints do not reach the logits
    if training.finetune.epochs:
        lr = training.finetune.lr or training.optimizer.lr / 10
        made.append(Stage(training.finetune.epochs, [len(terms)], labeled, len(labeled), lr))
    return made


def control_lesson(lesson: Lesson, own: Loss, labeled: "Array") -> Lesson:
    """As many steps with the task's own loss on the labeled rows alone."""
    made = [replace(one, places=[0], rows=labeled) for one in lesson.stages]
    return Lesson([own], made, lesson.inputs.alone(), None, lesson.validate, lesson.metric)
