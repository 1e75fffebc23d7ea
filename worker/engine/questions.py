"""What the teachers are asked before anybody learns, and how their answers are stored and found again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.catalog.spec import Holdout, PinnedData, Resolved
from worker.data import digest
from worker.engine.lumped import Form

if TYPE_CHECKING:
    from worker.engine.validate import Order

VERSION = 1  # of asking, drawing and storing; another one, and nothing that was stored is found

Asked = dict[str, "list[list[Question]]"]


@dataclass(frozen=True)
class Question:
    """Of one teacher, by its place, about one data file.

    rows: all; only those that are held out for validation; or each augmented view of every row, one after
    the other. first: of views, the position of the file's first row among the training rows. top_k: None:
    every class.
    """

    teacher: int
    pin: PinnedData
    rows: Literal["all", "held", "views"] = "all"
    first: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    top_k: int | None = None


def questions(resolved: Resolved) -> Asked:
    """By the name of the split: of each teacher a question for each file that the split's rows lie in.

    There is none for the training where teachers answer while it goes on, as rows are drawn anew each time.
    What students are judged by is stored whole.
    """
    data, ordered = resolved.data, resolved.spec.data
    places = range(len(resolved.teachers))
    asked: Asked = {}
    if not ordered.augment or ordered.views:
        asked["training"] = [_training(resolved, place) for place in places]
    if isinstance(data.validation, PinnedData):
        asked["validation"] = [[Question(place, data.validation)] for place in places]
    elif ordered.augment or isinstance(resolved.spec.signals.top_k, int):
        asked["validation"] = [[Question(place, data.train, "held")] for place in places]
    else:
        asked["validation"] = [files[:1] for files in asked["training"]]
    if data.test is not None:
        asked["test"] = [[Question(place, data.test)] for place in places]
    return asked


def _training(resolved: Resolved, place: int) -> list[Question]:
    store, found, first = resolved.spec.signals, [], 0
    dtype: Any = "float16" if store.dtype == "float16" else "float32"
    top_k = store.top_k if isinstance(store.top_k, int) else None
    for pin in (resolved.data.train, *resolved.data.unlabeled):
        if resolved.spec.data.views:
            found.append(Question(place, pin, "views", first, dtype, top_k))
        else:
            found.append(Question(place, pin, dtype=dtype, top_k=top_k))
        first += pin.rows
    return found


def form_of(order: "Order") -> Form:
    """Of the records of a lone teacher's likeliest classes."""
    (teacher,), store = order.resolved.teachers, order.resolved.spec.signals
    assert isinstance(store.top_k, int)
    return Form(store.top_k, len(teacher.labels), store.dtype == "float16")


def key(resolved: Resolved, question: Question, source: dict[str, Any] | None) -> str:
    """All that the answers depend on. source: the preprocessing of the rows that are augmented."""
    teacher = resolved.teachers[question.teacher]
    said: dict[str, Any] = {
        "teacher": teacher.digest,
        "data": question.pin.sha256,
        "task": resolved.spec.task.kind,
        "inputs": resolved.data.inputs,
        "preprocessing": teacher.preprocessing,
        "dtype": question.dtype,
        "version": VERSION,
    }
    if question.top_k is not None:
        said["top_k"] = question.top_k
    if question.rows == "held":
        said["held"] = _held(resolved)
    if question.rows == "views":
        said["views"] = _views(resolved, question, source)
    return digest(said)


def _views(resolved: Resolved, question: Question, source: dict[str, Any] | None) -> dict[str, Any]:
    ordered = resolved.spec.data
    said: dict[str, Any] = {
        "augment": [form.model_dump(mode="json") for form in ordered.augment],
        "views": ordered.views,
        "seed": resolved.spec.training.seed,
        "first": question.first,
        "source": source,
    }
    if any(form.mixes for form in ordered.augment):  # with rows of all files, but none that is held out
        files = [pin.sha256 for pin in (resolved.data.train, *resolved.data.unlabeled)]
        said["partners"] = [files, _held(resolved)]
    return said


def _held(resolved: Resolved) -> dict[str, Any] | None:
    """What decides which rows are held out."""
    if not isinstance(resolved.data.validation, Holdout):
        return None
    return {
        "share": resolved.data.validation.holdout,
        "seed": resolved.spec.training.seed,
        "label": resolved.data.label,
        "labels": resolved.labels,
    }
