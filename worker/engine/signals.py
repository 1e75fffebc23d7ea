"""The fourth phase: every teacher answers every row once, and every later job that needs the same reads
it."""

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from app.catalog.spec import PinnedData, PinnedModel
from app.services import signals as stored
from worker.data import Split, open_rows
from worker.engine import answers, teachers
from worker.engine.fetch import Material
from worker.engine.metrics import judge_of
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

DISAGREES = (
    1.5  # times chance: a teacher whose accuracy on labeled rows is below that does not know these labels
)


def signals(order: Order, material: Material) -> "dict[str, NDArray[np.float32]]":
    """The teachers' raw logits (N, K, C) by the name of the split, in the job's order of labels."""
    _tell(order, material)
    rows, done = sum(pin.rows for _, pin in material.awaited), 0
    for teacher, pairs in groupby(material.awaited, key=lambda pair: pair[0]):
        answer = teachers.load(teacher, order.folder / teacher.version_id, order.device)
        for _, pin in pairs:
            _ask(order, material, answer, teacher, pin, (done, rows))
            done += pin.rows
    splits = {split.name: split for split in (material.training, material.validation, material.report)}
    known = {name: _aligned(order, material, split) for name, split in splits.items()}
    _check_labels(order, material.training, known["training"])
    return known


def _tell(order: Order, material: Material) -> None:
    reused = len(material.answers) - len(material.awaited)
    order.journal.points("signals", 0, {"reused": float(reused), "asked": float(len(material.awaited))})
    told = [f"{t.reference} on {pin.reference}" for t, pin in material.awaited]
    order.journal.note(
        f"teachers' answers: {reused} reused from earlier jobs, {len(told)} to be asked for"
        + "".join(f"; {one}" for one in told),
        reused=reused,
        asked=len(told),
    )


def _ask(
    order: Order,
    material: Material,
    answer: teachers.Live,
    teacher: PinnedModel,
    pin: PinnedData,
    whole: tuple[int, int],
) -> None:
    preprocessing = order.task.parse_preprocessing(teacher.preprocessing)
    encoded = material.tables.encoded(pin, order.task, preprocessing)
    path = material.answers[teacher.version_id, pin.sha256]
    before, rows = whole
    normalize = partial(order.task.normalize, preprocessing=preprocessing)

    def told(done: int) -> None:
        order.journal.progress((before + done) / rows)

    answers.ask(answer, teacher, encoded, normalize, order.device, path, told)
    blob = order.parts.blobs.put_file(path)
    with order.parts.sessions.write() as session:
        stored.remember(session, order.project_id, answers.key(order.resolved, teacher, pin), blob)


def _aligned(order: Order, material: Material, split: Split) -> "NDArray[np.float32]":
    given = order.resolved.teachers
    parts = [[open_rows(material.answers[t.version_id, pin.sha256]) for pin in split.pins] for t in given]
    path, classes = order.folder / f"answers-{split.name}.npy", len(order.resolved.labels)
    return answers.aligned([order.translation(one) for one in given], parts, path, classes=classes)


def _check_labels(order: Order, training: Split, known: "NDArray[np.float32]") -> None:
    """The silent killer is a teacher whose classes stand in another order than its labels say."""
    if order.task.answer == "number":
        _check_numbers(order, training, known)
        return
    rows, chance = training.labeled, 1 / len(order.resolved.labels)
    for k, teacher in enumerate(order.resolved.teachers if len(rows) else []):
        accuracy = float((known[rows, k].argmax(-1) == training.labels[rows]).mean())
        if accuracy < DISAGREES * chance:
            order.journal.warn(
                "teacher_labels_disagree",
                f"{teacher.reference} is right on {accuracy:.1%} of the {len(rows)} labeled training "
                "rows; guessing is "
                f"right on {chance:.1%}. Its labels probably stand in another order than its logits: "
                "import it again with `labels` put right.",
                teacher=teacher.reference,
                accuracy=accuracy,
            )


def _check_numbers(order: Order, training: Split, known: "NDArray[np.float32]") -> None:
    """A teacher of another quantity, or in another unit, is worse than answering the mean."""
    rows, judge = training.labeled, judge_of(order.task, order.preprocessing)
    for k, teacher in enumerate(order.resolved.teachers if len(rows) > 1 else []):
        explained = judge.truth(known[rows, k], training.labels[rows])["r2"]
        if explained < 0:
            order.journal.warn(
                "teacher_labels_disagree",
                f"{teacher.reference} is further from the labels of the {len(rows)} labeled training rows "
                f"than their mean is (r2 {explained:.2f}). It probably answers another quantity, or in "
                "another unit: name the right label column, or import it again with its `target` in "
                "`preprocessing`.",
                teacher=teacher.reference,
                r2=explained,
            )
