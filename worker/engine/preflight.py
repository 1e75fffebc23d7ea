"""The third phase: one real batch goes through all that the job will do. What can fail fails in the first
minute."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from app.catalog.base import Architecture
from app.errors import Fault, ShapeMismatch, TeacherLoadFailed
from worker.data import open_rows
from worker.engine import answers, teachers
from worker.engine.device import Rows, out_of_memory
from worker.engine.distill import Trained
from worker.engine.export import write_all
from worker.engine.fetch import Material
from worker.engine.questions import form_of
from worker.engine.rehearsal import Rehearsal
from worker.engine.schemes import ARRANGE
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRACED_ROWS = 8


def preflight(order: Order, material: Material) -> None:
    """Teachers, students, losses, backward, a step, evaluation, every export: on students that are thrown
    away. The attempt that left a checkpoint has tried it all."""
    if order.checkpoint_step:
        return
    spec, pin, task = order.resolved.spec, order.resolved.data.train, order.task
    encoded = material.tables.sample(pin, task, order.preprocessing, spec.training.batch_size)
    live: dict[int, teachers.Live] = {}
    heard = [
        _heard(order, material, place, len(encoded), live) for place in range(len(order.resolved.teachers))
    ]
    order.journal.progress(0.3)

    if order.inherited:
        order.journal.note(order.inherited.told, **order.inherited.data)

    def rehearse() -> list[Trained]:
        checked: list[Architecture] = []
        few = encoded[: order.adjustments.training(order.seed).micro_batch_size]
        for _, architecture in spec.scheme.students(spec.student.architecture):
            if architecture not in checked:
                checked.append(architecture)
                _check_student(order, architecture, order.new_student(architecture), few)
        rehearsal = Rehearsal(order, material, encoded, np.stack(heard, 1) if heard else None, live)
        taught = ARRANGE[spec.scheme.kind](rehearsal, spec.scheme).teach(order.seed)
        for note in rehearsal.notes:
            order.journal.note(note)
        return [*taught.values(), *rehearsal.before]

    rehearsed = order.adjustments.persist(rehearse)
    order.journal.progress(0.5)

    exported: list[Architecture | None] = []
    for one in rehearsed:
        if one.architecture not in exported:
            exported.append(one.architecture)
            _check_exports(order, one, encoded)


def _check_exports(order: Order, trained: Trained, encoded: "NDArray[Any]") -> None:
    """Raises ExportFailed, ExportMismatch."""
    student, rows = order.new_student(trained.architecture), order.normalize(encoded[:TRACED_ROWS])
    student.load_state_dict(trained.state)
    folder = order.folder / "preflight"
    write_all(order, student.cpu().eval(), rows, rows, folder, trained.architecture)


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
    except (RuntimeError, ValueError, TypeError) as error:
        if out_of_memory(error):
            raise
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
    except (RuntimeError, ValueError, TypeError) as error:
        if out_of_memory(error):
            raise
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
