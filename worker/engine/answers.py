"""What teachers answer to rows, before anybody learns from it.

Raw logits, before any temperature, in the teacher's own order of classes. A teacher sees batches of one fixed
size, cut from the file as it lies, so its answers do not depend on who asked or in which order rows are
learned.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from app.errors import TeacherLoadFailed
from worker.engine.lumped import Form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.catalog.spec import PinnedModel
    from worker.engine.teachers import Live, Translation

BATCH = 64
NUMBERS_AT_ONCE = 2_000_000
LARGEST_HALF = 65_504.0


def ask(
    answer: "Live",
    teacher: "PinnedModel",
    inputs: Callable[[Tensor], Tensor],
    array: "NDArray[Any]",
    *,
    form: Form | None = None,
    told: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> None:
    """Fills the array with the answers to as many rows: logits (N, the teacher's classes), or records.

    inputs: from positions, (64,), to the teacher's normalized batch. told: how many rows are done.
    """
    for start in range(0, len(array), BATCH):
        places = torch.arange(start, start + BATCH)  # the last batch is as large as the others
        outputs = answer(inputs(places.clamp(max=len(array) - 1)))
        assert outputs.logits is not None
        logits = outputs.logits[: len(array) - start].cpu()
        check(teacher, logits.numpy())
        if array.dtype == np.float16 or (form is not None and form.half):
            logits = logits.clamp(-LARGEST_HALF, LARGEST_HALF)
        array[start : start + len(logits)] = logits.numpy() if form is None else form.packed(logits)
        told(start + len(logits))


def create(path: Path, rows: int, classes: int, *, dtype: str, form: Form | None) -> "NDArray[Any]":
    """A memory-mapped file for the answers to so many rows."""
    if form is None:
        return np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (rows, classes))
    return np.lib.format.open_memmap(path, "w+", np.uint8, (rows, form.record.itemsize))


def check(teacher: "PinnedModel", logits: "NDArray[np.float32]") -> None:
    """Raises TeacherLoadFailed unless there is one finite logit a class."""
    if logits.shape[-1] != len(teacher.labels):
        raise TeacherLoadFailed(
            f"The teacher {teacher.reference} answers with {logits.shape[-1]} numbers a row, but was "
            "imported "
            f"with {len(teacher.labels)} labels. Import it again with its own labels."
        )
    if not np.isfinite(logits).all():
        raise TeacherLoadFailed(
            f"The teacher {teacher.reference} answers some rows with NaN or infinity. "
            "Save it in float32 and import it again."
        )


def aligned(
    translate: "Sequence[Translation]",
    parts: "Sequence[Sequence[NDArray[Any]]]",
    path: Path,
    *,
    classes: int,
) -> "NDArray[Any]":
    """(N, K, C): the answers of all K teachers as the job has them. parts[k]: teacher k's, file by file."""
    rows, dtype = sum(map(len, parts[0])), np.result_type(*(part.dtype for files in parts for part in files))
    array = np.lib.format.open_memmap(path, "w+", dtype, (rows, len(translate), classes))
    for k, (translated, answers) in enumerate(zip(translate, parts, strict=True)):
        start = 0
        for part in answers:
            copy(part, translated, array[start : start + len(part), k])
            start += len(part)
    array.flush()
    return array


def copy(
    part: "NDArray[Any]",
    translated: "Translation",
    into: "NDArray[Any]",
    rows: "NDArray[np.int64] | None" = None,
) -> None:
    """rows: where each of them goes; None: to the rows as they lie."""
    for place in places(len(part), part.shape[-1]):
        some = translated(torch.from_numpy(part[place]).float()).numpy()
        into[place if rows is None else rows[place]] = some


def places(rows: int, width: int) -> Iterator[slice]:
    """A few rows of this width after the others, so that memory stays bounded."""
    step = max(NUMBERS_AT_ONCE // width, 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
