"""Answers of a student: raw rows in, labels by name out, both by the task's own code, as in training."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from app.catalog.base import Task
from app.catalog.spec import TASKS
from app.db.tables import Model, ModelVersion
from app.errors import Fault, InvalidData, ModelNotReady, NotFound, UnknownReference, shown
from app.ports.predictor import Answering
from app.services import models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ROWS = 1000  # of one request
ROWS_AT_ONCE = 32  # through the model; so a request of any length needs the memory of this many rows
MAX_REMEMBERED = 1000  # students whose rows are not read again
SERVED = ("model.onnx", "model.int8.onnx")  # the first of these that a student has
_FIX = {
    "image": "Send the bytes of one PNG, JPEG or other image file, in base64 or as a form's file.",
    "vector": "Send the columns that the student was trained on, each with a value of its kind.",
    "text": 'Send texts as JSON: {"inputs": ["a text", "another"]}.',
}
_NEAR = "Send values like those of the training data."


@dataclass(frozen=True)
class Student:
    """What answering takes of a model version. name: NAME@VERSION, whatever the reference said."""

    version_id: str
    name: str
    sha256: str  # of its ONNX file
    task: Task
    preprocessing: Any
    labels: Sequence[str]


def find(session: Session, project_id: str, reference: str) -> Student:
    """The student that NAME, NAME@VERSION or NAME@ALIAS means now. Raises NotFound, ModelNotReady."""
    try:
        version_id = models.identify(session, project_id, reference)
    except UnknownReference as error:
        fix = "Name a model that GET /v1/models lists, with a version or an alias that it has."
        raise NotFound(error.detail, Fault("/model", "unknown_reference", error.detail, fix)) from None
    student = _students.get(version_id)
    if student is None:
        student = _student(session, version_id)
        if len(_students) >= MAX_REMEMBERED:
            _students.clear()
        _students[version_id] = student
    return student


def answer(
    student: Student, predictor: Answering, rows: Sequence[Any], *, top_k: int, where: str = "/inputs"
) -> list[dict[str, Any]]:
    """One answer a row, in order. where: the JSON pointer under which the rows stand in the request.

    An image comes as bytes or as base64 text, a table's row as an object or as a list in the columns' order,
    a text as it is or as an object with its column.
    Raises InvalidData, with a fault for each row that cannot be read; ModelNotReady.
    """
    answers: list[dict[str, Any]] = []
    encode = student.task.encoder(student.preprocessing, predictor.opened)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = _encoded(student, encode, rows[start : start + ROWS_AT_ONCE], (start, where))
        logits = predictor.logits(student.sha256, student.task.normalize(batch, student.preprocessing))
        _check_finite(logits, start, where)
        told = student.task.in_units(logits, student.preprocessing)
        answers += student.task.decode(told, student.labels, top_k=top_k)
    return answers


_students: dict[str, Student] = {}  # by version id; what was read of an immutable row stays true


def _student(session: Session, version_id: str) -> Student:
    version = session.get_one(ModelVersion, version_id)
    task = TASKS[version.task](kind=version.task)
    return Student(
        version_id=version_id,
        name=f"{session.get_one(Model, version.model_id).name}@{version.version}",
        sha256=_onnx_file(version),
        task=task,
        preprocessing=task.parse_preprocessing(version.preprocessing),
        labels=version.labels,
    )


def _onnx_file(version: ModelVersion) -> str:
    """The digest of the file to serve: the API opens only ONNX that our own workers exported."""
    if version.source != "job":
        detail = "This model was imported, and only students made by a job are served; distill it into one."
        raise ModelNotReady(detail)
    digests = {file["path"]: str(file["sha256"]) for file in version.files}
    found = next((digests[path] for path in SERVED if path in digests), None)
    if found is None:
        detail = (
            'This student was not exported as ONNX; run its job again with {"kind": "onnx"} in `exports`.'
        )
        raise ModelNotReady(detail)
    return found


def _encoded(
    student: Student, encode: "Callable[[Any], NDArray[Any]]", rows: Sequence[Any], place: tuple[int, str]
) -> "NDArray[Any]":
    """place: how many rows stand before these, and the pointer of all."""
    import numpy as np

    read = _READERS[student.task.modality]
    batch, faults, (start, where) = [], [], place
    for number, row in enumerate(rows, start):
        try:
            batch.append(encode(read(row, student.preprocessing)))
        except InvalidData as error:
            fix = error.faults[0].fix if error.faults else ""
            faults.append(
                Fault(f"{where}/{number}", "invalid_row", error.detail, fix or _FIX[student.task.modality])
            )
    if faults:
        more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
        raise InvalidData(f"{faults[0].pointer}: {faults[0].detail}{more}", *faults)
    return np.stack(batch)


def _image(value: Any, _preprocessing: Any) -> bytes:
    """Bytes as they are; base64 text, with or without data:image/png;base64, before it, decoded."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidData(
            f"An image is a text in base64, not {_kind(value)}; or send image files as multipart."
        )
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidData("This text is not base64; encode the bytes of the image file.") from None


def _table_row(value: Any, preprocessing: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    names = [feature.name for feature in preprocessing.features]
    if not isinstance(value, list):
        raise InvalidData(f"A row is an object with the columns {shown(names)}, not {_kind(value)}.")
    if len(value) != len(names):
        detail = (
            f"A row given as a list needs {len(names)} values, {shown(names)}; this one has {len(value)}."
        )
        raise InvalidData(detail)
    return dict(zip(names, value, strict=True))


def _text(value: Any, preprocessing: Any) -> str:
    """The text itself, or an object that has it in the column of the training data."""
    column = preprocessing.column
    if isinstance(value, dict) and column not in value:
        there = shown(", ".join(map(str, value)))
        raise InvalidData(f"An object needs the column {shown(column)}; this one has {there}.")
    text = value[column] if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidData(f"This student reads texts; {_kind(text)} is none.")
    return text


_READERS = {"image": _image, "vector": _table_row, "text": _text}


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bytes: "an image",
        type(None): "null",
        bool: "a boolean",
    }
    return kinds.get(type(value), "a number")


def _check_finite(logits: "NDArray[np.float32]", start: int, where: str) -> None:
    """Values far outside of what a student has seen can overflow inside it."""
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        faults = [
            Fault(
                f"{where}/{start + row}",
                "not_finite",
                "the student's answer is infinite or not a number",
                _NEAR,
            )
            for row in bad
        ]
        detail = f"{faults[0].pointer}: {faults[0].detail}; its values lie far outside of the training data."
        raise InvalidData(detail, *faults)
