"""The third phase: one real batch goes through all that the job will do. What can fail fails in the first
minute."""

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from app.catalog.base import Architecture
from app.catalog.features import LayerLoss
from app.catalog.spec import LOSSES
from app.errors import Fault, Invalid, ShapeMismatch, TeacherLoadFailed
from worker.data import Split, have_labels, open_rows
from worker.engine import answers, teachers
from worker.engine.course import stages, validator
from worker.engine.device import Rows
from worker.engine.distill import Lesson, distill
from worker.engine.export import write_all
from worker.engine.fetch import Material
from worker.engine.inputs import Inputs
from worker.engine.layer_paths import at
from worker.engine.learner import Learner, Metrics
from worker.engine.metrics import judge_of
from worker.engine.teaching import Teaching
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRACED_ROWS = 8


def preflight(order: Order, material: Material) -> None:
    """Teachers, students, losses, backward, a step, evaluation, every export: on students that are thrown
    away."""
    spec, pin, task = order.resolved.spec, order.resolved.data.train, order.task
    encoded = material.tables.sample(pin, task, order.preprocessing, spec.training.batch_size)
    live: dict[int, teachers.Live] = {}
    heard = [
        _heard(order, material, place, len(encoded), live) for place in range(len(order.resolved.teachers))
    ]
    order.journal.progress(0.3)

    for _, architecture in spec.scheme.students(spec.student.architecture):
        student = order.new_student(architecture)
        _check_student(order, architecture, student, encoded)
    _learn(order, student, _lesson(order, material, encoded, np.stack(heard, 1) if heard else None, live))
    order.journal.progress(0.5)

    rows = order.normalize(encoded[:TRACED_ROWS])
    write_all(order, student.cpu().eval(), rows, rows, order.folder / "preflight")


def _learn(order: Order, student: nn.Module, lesson: Lesson) -> None:
    """One batch through every stage. Raises ShapeMismatch where a loss looks for what is not there."""
    training = order.resolved.spec.training.model_copy(update={"early_stopping": None})
    index = torch.from_numpy(lesson.stages[0].rows[: training.batch_size])
    learner = Learner(
        student,
        lesson.terms,
        training,
        device=order.device,
        teaching=lesson.teaching,
        probe=lesson.inputs(index, 0),
        rows=len(index),
    )
    for note in learner.told_pairs():
        order.journal.note(note)
    try:
        distill([learner], lesson, training, watch=_Nobody(), finish=threading.Event())
    except torch.OutOfMemoryError:
        raise
    except (Invalid, RuntimeError, ValueError, LookupError) as error:
        raise _misfit(error, learner.objective.computing, lesson) from error
    learner.close()


def _misfit(error: Exception, place: int | None, lesson: Lesson) -> Exception:
    """The error itself, or what it means where a loss was being computed: its place tells which."""
    pointer = f"/losses/{place}"
    if isinstance(error, Invalid):
        return error if place is None else at(pointer, error)
    if place is None or not isinstance(lesson.terms[place], LayerLoss):
        return error
    kind, said = lesson.terms[place].kind, [*str(error).splitlines(), type(error).__name__]
    detail = f"{kind} cannot compare what the student and its teacher show: {said[0][:200]}"
    fix = "choose layers whose shapes go together, or another loss"
    return ShapeMismatch(detail, Fault(pointer, "shape_mismatch", detail, fix))


def _heard(
    order: Order, material: Material, place: int, rows: int, live: "dict[int, teachers.Live]"
) -> "NDArray[np.float32]":
    """A teacher's logits for the first training rows, in the job's order: stored ones, or asked for now.

    live: is given the teachers that training asks.
    """
    pin, teacher = order.resolved.data.train, order.resolved.teachers[place]
    path = material.answers[teacher.version_id, pin.sha256]
    if place in material.live or not path.exists():
        answer = teachers.load(teacher, order.folder / teacher.version_id, order.device)
        live |= (
            {place: teachers.Translated(answer, order.translation(teacher))} if place in material.live else {}
        )
        path = order.folder / f"preflight-{teacher.version_id}.npy"
        preprocessing = order.task.parse_preprocessing(teacher.preprocessing)
        encoded = material.tables.sample(pin, order.task, preprocessing, rows)
        normalize = partial(order.task.normalize, preprocessing=preprocessing)
        try:
            answers.ask(answer, teacher, encoded, normalize, order.device, path, lambda _: None)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            shape = " x ".join(map(str, encoded.shape[1:]))
            raise TeacherLoadFailed(
                f"The teacher {teacher.reference} cannot take the rows of {shape} that its preprocessing "
                "makes. "
                "Import it again with the preprocessing that it was trained with."
            ) from error
    return order.translation(teacher)(torch.from_numpy(open_rows(path)[:rows])).numpy()


def _check_student(
    order: Order, architecture: Architecture, student: nn.Module, encoded: "NDArray[Any]"
) -> None:
    """Raises ShapeMismatch unless the student makes one logit a label of a batch."""
    family, shape = architecture.kind, " x ".join(map(str, order.resolved.input.shape))
    wanted = (len(encoded), len(order.resolved.labels))
    try:
        with order.device.autocast():
            logits = student.train()(order.normalize(torch.from_numpy(encoded).to(order.device.on))).logits
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise ShapeMismatch(
            f"The student ({family}) cannot take a batch of {len(encoded)} rows of {shape}. "
            "Order fewer stages, a larger input or larger batches.",
            Fault(
                "/student/architecture",
                "shape_mismatch",
                f"{family} on {shape}",
                "order fewer stages or a larger input",
            ),
        ) from error
    if tuple(logits.shape) != wanted:
        raise ShapeMismatch(
            f"The student ({family}) makes an output of shape {tuple(logits.shape)}; {wanted} is needed."
        )


def _lesson(
    order: Order,
    material: Material,
    encoded: "NDArray[Any]",
    heard: "NDArray[np.float32] | None",
    live: "dict[int, teachers.Live]",
) -> Lesson:
    """The job's own in small: one batch, one epoch a stage."""
    spec, task, device, rows = order.resolved.spec, order.task, order.device, np.arange(len(encoded))
    labels = material.training.labels[: len(encoded)]
    labeled = np.flatnonzero(have_labels(labels))
    split = Split("preflight", (), labeled if len(labeled) else rows, labels)
    inputs, shown = Rows(encoded, device), {}
    for place in live:
        own = task.parse_preprocessing(order.resolved.teachers[place].preprocessing)
        sample = material.tables.sample(order.resolved.data.train, task, own, len(encoded))
        shown[place] = (Rows(sample, device), partial(task.normalize, preprocessing=own))
    target, teaching = None, None
    if heard is not None:
        target = order.ensemble.mean(torch.from_numpy(heard[split.rows])).numpy()
        teaching = Teaching(order.ensemble, Rows(heard, device), live)
    own_loss = LOSSES[task.own_loss]()  # type: ignore[call-arg]
    terms = spec.terms()
    made = stages(spec.training, terms, rows, labeled if len(labeled) else rows)
    return Lesson(
        terms=[*terms, own_loss] if spec.training.finetune.epochs else terms,
        stages=[replace(stage, epochs=1) for stage in made],
        inputs=Inputs(inputs, Rows(labels, device), order.normalize, token_mask=order.token_mask, live=shown),
        teaching=teaching,
        validate=validator(inputs, split, target, order),
        metric=judge_of(task, order.preprocessing).imitation if target is not None else task.metric,
    )


class _Nobody:
    """Looks on and says nothing."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None: ...

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None: ...

    def best(self, step: int, metric: str, value: float) -> None: ...
