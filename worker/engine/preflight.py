"""The third phase: one real batch goes through all that the job will do. What can fail fails in the first
minute."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from app.catalog.base import Architecture, Frozen
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
from worker.engine.inputs import training_inputs
from worker.engine.layer_paths import at
from worker.engine.learner import Learner, Metrics
from worker.engine.lumped import LumpedRows
from worker.engine.metrics import judge_of
from worker.engine.questions import form_of
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
    teacher = order.resolved.teachers[place]
    path = _kept_at(material, place)
    if path is not None and path.exists():
        return order.translation(teacher)(_stored(order, path, rows)).numpy()
    answer = teachers.load(teacher, order.folder / teacher.version_id, order.device)
    if place in material.live:
        live[place] = teachers.Translated(answer, order.translation(teacher))
    own = order.preprocessing_of(place)
    encoded = material.tables.sample(order.resolved.data.train, order.task, own, rows)
    sample, array = Rows(encoded, order.device), np.empty((rows, len(teacher.labels)), np.float32)
    try:
        answers.ask(answer, teacher, lambda index: order.task.normalize(sample[index], own), array)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        shape = " x ".join(map(str, encoded.shape[1:]))
        raise TeacherLoadFailed(
            f"The teacher {teacher.reference} cannot take the rows of {shape} that its preprocessing "
            "makes. "
            "Import it again with the preprocessing that it was trained with."
        ) from error
    return order.translation(teacher)(torch.from_numpy(array)).numpy()


def _kept_at(material: Material, place: int) -> Path | None:
    """Where the answers about the first training file lie or will lie; None: the teacher is at hand."""
    if place in material.live:
        return None
    return material.answers[material.questions["training"][place][0]]


def _stored(order: Order, path: Path, rows: int) -> torch.Tensor:
    """Logits of the first training rows as an earlier job had them: of views the first one."""
    found = torch.from_numpy(open_rows(path)[:: order.resolved.spec.data.views or 1][:rows])
    if found.dtype != torch.uint8:
        return found.float()
    return form_of(order).unpacked(found).dense()


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

    def sample(preprocessing: Frozen) -> Rows:
        again = material.tables.sample(order.resolved.data.train, task, preprocessing, len(encoded))
        return Rows(again, device)

    inputs = training_inputs(
        order,
        material.tables,
        lambda own: Rows(encoded, device) if own == order.preprocessing else sample(own),
        Rows(labels, device),
        learned=rows,
        live={place: order.preprocessing_of(place) for place in live},
    )
    target, teaching = None, None
    if heard is not None:
        target = order.ensemble.mean(torch.from_numpy(heard[split.rows])).numpy()
        teaching = Teaching(order.ensemble, _kept(order, heard), live)
    own_loss = LOSSES[task.own_loss]()  # type: ignore[call-arg]
    terms = spec.terms()
    made = stages(spec.training, terms, rows, labeled if len(labeled) else rows)
    return Lesson(
        terms=[*terms, own_loss] if spec.training.finetune.epochs else terms,
        stages=[replace(stage, epochs=1) for stage in made],
        inputs=inputs,
        teaching=teaching,
        validate=validator(Rows(encoded, device), split, target, order),
        metric=judge_of(task, order.preprocessing).imitation if target is not None else task.metric,
    )


def _kept(order: Order, heard: "NDArray[np.float32]") -> "Rows | LumpedRows | None":
    """The answers as training will have them, the same to every view."""
    data, store = order.resolved.spec.data, order.resolved.spec.signals
    if data.augment and not data.views:
        return None
    seen = np.repeat(heard, data.views or 1, axis=0)
    if not isinstance(store.top_k, int):
        return Rows(seen, order.device)
    form = form_of(order)
    return LumpedRows(Rows(form.packed(torch.from_numpy(seen[:, 0])), order.device), form)


class _Nobody:
    """Looks on and says nothing."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None: ...

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None: ...

    def best(self, step: int, metric: str, value: float) -> None: ...
