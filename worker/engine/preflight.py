"""The third phase: one real batch goes through all that the job will do. What can fail fails in the first
minute."""

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from app.catalog.base import UNLABELED
from app.catalog.spec import PinnedModel
from app.errors import Fault, ShapeMismatch, TeacherLoadFailed
from worker.data import Split, open_rows
from worker.engine import answers, teachers
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Metrics, distill
from worker.engine.ensemble import combination
from worker.engine.export import write_all
from worker.engine.fetch import Material
from worker.engine.train import validator
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRACED_ROWS = 8


def preflight(order: Order, material: Material) -> None:
    """Teachers, student, losses, backward, a step, evaluation, every export: on a student that is thrown
    away."""
    spec, pin = order.resolved.spec, order.resolved.data.train
    encoded = material.tables.sample(pin, order.task, order.preprocessing, spec.training.batch_size)
    heard = np.stack(
        [_heard(order, material, teacher, len(encoded)) for teacher in order.resolved.teachers], axis=1
    )
    order.journal.progress(0.3)

    student = order.new_student()
    _check_student(order, student, encoded)
    distill(
        student,
        _lesson(order, material, encoded, heard),
        spec.training.model_copy(update={"epochs": 1, "early_stopping": None}),
        device=order.device,
        watch=_Nobody(),
        finish=threading.Event(),
    )
    order.journal.progress(0.5)

    rows = order.normalize(encoded[:TRACED_ROWS])
    write_all(order, student.cpu().eval(), rows, rows, order.folder / "preflight")


def _heard(order: Order, material: Material, teacher: PinnedModel, rows: int) -> "NDArray[np.float32]":
    """A teacher's logits for the first training rows, in the job's order: stored ones, or asked for now."""
    pin = order.resolved.data.train
    path = material.answers[teacher.version_id, pin.sha256]
    if not path.exists():
        path = order.folder / f"preflight-{teacher.version_id}.npy"
        answer = teachers.load(teacher, order.folder / teacher.version_id, order.device)
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
    return open_rows(path)[:rows, teacher.order]


def _check_student(order: Order, student: nn.Module, encoded: "NDArray[Any]") -> None:
    """Raises ShapeMismatch unless the student makes one logit a label of a batch."""
    family, shape = (
        order.resolved.spec.student.architecture.kind,
        " x ".join(map(str, order.resolved.input.shape)),
    )
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
    order: Order, material: Material, encoded: "NDArray[Any]", heard: "NDArray[np.float32]"
) -> Lesson:
    spec, device, rows = order.resolved.spec, order.device, np.arange(len(encoded))
    labels = material.training.labels[: len(encoded)]
    labeled = np.flatnonzero(labels != UNLABELED)
    split = Split("preflight", (), labeled if len(labeled) else rows, labels)
    inputs, weights = Rows(encoded, device), [teacher.weight for teacher in order.resolved.teachers]
    targets = combination(spec.ensemble, weights, device.on)
    target = targets(torch.from_numpy(heard[split.rows]).to(device.on), 1.0).cpu().numpy()
    return Lesson(
        terms=spec.terms(),
        rows=rows,
        epoch_rows=len(rows),
        inputs=inputs,
        labels=Rows(labels, device),
        answers=Rows(heard, device),
        combine=targets,
        normalize=order.normalize,
        validate=validator(inputs, split, target, order.normalize),
        metric="agreement",
    )


class _Nobody:
    """Looks on and says nothing."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None: ...

    def reading(self, split: Literal["train", "validation"], step: int, values: Metrics) -> None: ...

    def best(self, step: int, metric: str, value: float) -> None: ...
