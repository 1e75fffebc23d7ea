"""The fourth phase: every teacher answers every row once, and every later job that needs the same reads
it."""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from app.catalog.spec import Holdout
from app.services import signals as stored
from worker.data import Split, joined, open_rows
from worker.engine import answers, teachers
from worker.engine.device import Rows
from worker.engine.fetch import Material
from worker.engine.inputs import augmenting
from worker.engine.judging.metrics import judge_of
from worker.engine.questions import Question, form_of, key
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DISAGREES = (
    1.5  # times chance: a teacher whose accuracy on labeled rows is below that does not know these labels
)


def signals(order: Order, material: Material) -> "dict[str, Array]":
    """The teachers' raw logits (N, K, C) by the name of the split, in the job's order of labels.

    Of augmented training rows they are those of each view, (N * views, K, C), or there are none; where only
    the likeliest classes are kept they are records, (N, bytes). Of rows that are held out only these are
    filled in.
    """
    _tell(order, material)
    awaited = sorted(material.awaited, key=lambda one: one.teacher)
    rows, done = sum(one.pin.rows for one in awaited), 0
    for place, several in groupby(awaited, key=lambda one: one.teacher):
        teacher = order.resolved.teachers[place]
        answer = teachers.load(teacher, order.folder / teacher.version_id, order.device)
        for question in several:
            _ask(order, material, answer, question, (done, rows))
            done += question.pin.rows
    if not order.resolved.teachers:
        return {}
    known: dict[str, Array] = {}
    for split in (material.training, material.validation, material.report):
        if split.name not in known and split.name in material.questions:
            known[split.name] = _known(order, material, split, known)
    plain = "training" in known and known["training"].ndim == 3 and not order.resolved.spec.data.augment
    checked = material.training if plain else material.validation
    _check_labels(order, checked, known[checked.name])
    return known


def _tell(order: Order, material: Material) -> None:
    reused = len(set(material.answers.values())) - len(material.awaited)
    order.journal.points("signals", 0, {"reused": float(reused), "asked": float(len(material.awaited))})
    told = [
        f"{order.resolved.teachers[one.teacher].reference} on {one.pin.reference}" for one in material.awaited
    ]
    order.journal.note(
        f"teachers' answers: {reused} reused from earlier jobs, {len(told)} to be asked for"
        + "".join(f"; {one}" for one in told),
        reused=reused,
        asked=len(told),
    )


def _ask(
    order: Order, material: Material, answer: teachers.Live, question: Question, whole: tuple[int, int]
) -> None:
    path, teacher = material.answers[question], order.resolved.teachers[question.teacher]
    inputs, rows = _inputs(order, material, question)
    before, all_rows = whole

    def told(done: int) -> None:
        order.journal.progress((before + done / rows * question.pin.rows) / all_rows)

    form = None if question.top_k is None else form_of(order)
    array = answers.create(path, rows, len(teacher.labels), dtype=question.dtype, form=form)
    answers.ask(answer, teacher, inputs, array, form=form, told=told)
    blob = order.parts.blobs.put_file(path)
    source = order.source.model_dump(mode="json") if order.resolved.spec.data.augment else None
    with order.parts.sessions.write() as session:
        stored.remember(session, order.project_id, key(order.resolved, question, source), blob)


def _inputs(order: Order, material: Material, question: Question) -> tuple[Callable[[Tensor], Tensor], int]:
    """What the teacher is shown for positions of the answers, and how many of these there are."""
    tables, task, pin = material.tables, order.task, question.pin
    own = order.preprocessing_of(question.teacher)
    if question.rows == "views":
        source = Rows(tables.laid_end_to_end(material.training, task, order.source), order.device)
        augment = augmenting(order, tables, source, material.training.rows)
        views = order.resolved.spec.data.views or 1

        def view(places: Tensor) -> Tensor:
            drawn = augment(question.first + places // views, places % views)
            return order.shown(drawn.rows, own)

        return view, pin.rows * views
    encoded = Rows(tables.encoded(pin, task, own), order.device)
    normalize = partial(task.normalize, preprocessing=own)
    if question.rows == "all":
        return lambda places: normalize(encoded[places]), pin.rows
    held = torch.from_numpy(material.validation.rows)
    return lambda places: normalize(encoded[held[places]]), len(held)


def _known(order: Order, material: Material, split: Split, known: "dict[str, Array]") -> "Array":
    asked, classes = material.questions[split.name], len(order.resolved.labels)
    files = [[open_rows(material.answers[one]) for one in several] for several in asked]
    translate = [order.translation(teacher) for teacher in order.resolved.teachers]
    path = order.folder / f"answers-{split.name}.npy"
    first = asked[0][0]
    if first.top_k is not None:
        return files[0][0] if len(files[0]) == 1 else joined(files[0], path)
    if first.rows == "held":
        shape = (first.pin.rows, len(asked), classes)
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)  # what is not written takes no room
        for k, several in enumerate(files):
            answers.copy(several[0], translate[k], array[:, k], split.rows)
        return array
    if split.name == "validation" and isinstance(order.resolved.data.validation, Holdout):
        return known["training"]  # they were asked about with all the others
    if len(files) == len(files[0]) == 1 and order.in_the_jobs_order(order.resolved.teachers[0]):
        return files[0][0][:, None]
    return answers.aligned(translate, files, path, classes=classes)


def _check_labels(order: Order, split: Split, known: "Array") -> None:
    """The silent killer is a teacher whose classes stand in another order than its labels say."""
    if order.task.answer == "number":
        _check_numbers(order, split, known)
        return
    rows, chance = split.labeled, 1 / len(order.resolved.labels)
    for k, teacher in enumerate(order.resolved.teachers if len(rows) else []):
        accuracy = _right(known, k, split) / len(rows)
        if accuracy < DISAGREES * chance:
            order.journal.warn(
                "teacher_labels_disagree",
                f"{teacher.reference} is right on {accuracy:.1%} of the {len(rows)} labeled {split.name} "
                "rows; guessing is "
                f"right on {chance:.1%}. Its labels probably stand in another order than its logits: "
                "import it again with `labels` put right.",
                teacher=teacher.reference,
                accuracy=accuracy,
            )


def _right(known: "Array", k: int, split: Split) -> int:
    """How many labeled rows a teacher is right on, a few at a time."""
    found = 0
    for place in answers.places(len(split.labeled), known.shape[-1]):
        rows = split.labeled[place]
        found += int((known[rows, k].argmax(-1) == split.labels[rows]).sum())
    return found


def _check_numbers(order: Order, split: Split, known: "Array") -> None:
    """A teacher of another quantity, or in another unit, is worse than answering the mean."""
    rows, judge = split.labeled, judge_of(order.task, order.preprocessing)
    for k, teacher in enumerate(order.resolved.teachers if len(rows) > 1 else []):
        explained = judge.truth(known[rows, k], split.labels[rows])["r2"]
        if explained < 0:
            order.journal.warn(
                "teacher_labels_disagree",
                f"{teacher.reference} is further from the labels of the {len(rows)} labeled {split.name} "
                f"rows than their mean is (r2 {explained:.2f}). It probably answers another quantity, or in "
                "another unit: name the right label column, or import it again with its `target` in "
                "`preprocessing`.",
                teacher=teacher.reference,
                r2=explained,
            )
