"""Where a student and its teacher part most: the rows to look at first."""

from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.base import UNLABELED
from worker.data import Split
from worker.engine.judging.metrics import Judge
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Json = dict[str, Any]

SHOWN_ROWS = 100
SHOWN_LABELS = 3


def furthest(order: Order, split: Split, judge: Judge, student: "Array", teacher: "Array") -> "list[Json]":
    """The rows, furthest first. student, teacher: logits (n, C) of the split's rows.

    `row` counts from 1 in the split that `data` names, as the dataset's rows do; `apart` is
    KL(teacher ; student) in nats, or of numbers the absolute difference; `teacher` and `student` are their
    answers as /predict gives them.
    """
    apart = judge.apart(student, teacher)
    places = np.argsort(-apart, kind="stable")[:SHOWN_ROWS]
    answers = [_answers(order, logits[places]) for logits in (teacher, student)]
    starts = np.cumsum([0, *(pin.rows for pin in split.pins)])
    found = []
    for place, taught, learned in zip(places, *answers, strict=True):
        row = int(split.rows[place])
        file = int(np.searchsorted(starts, row, side="right")) - 1
        found.append(
            {
                "split": split.name,
                "data": split.pins[file].reference,
                "row": row - int(starts[file]) + 1,
                "label": _label(order, split.labels[row]),
                "apart": float(apart[place]),
                "teacher": taught,
                "student": learned,
            }
        )
    return found


def _answers(order: Order, logits: "Array") -> "list[Json]":
    told = order.task.in_units(logits, order.preprocessing)
    return order.task.decode(told, order.resolved.labels, top_k=SHOWN_LABELS)


def _label(order: Order, label: Any) -> str | float | None:
    if order.task.answer == "number":
        return None if np.isnan(label) else float(order.task.in_units(float(label), order.preprocessing))
    return None if label == UNLABELED else order.resolved.labels[int(label)]
