"""What teachers answer to the rows of a file, and the key under which it is found again.

Raw logits, before any temperature, in the teacher's own order of classes. A teacher sees batches of one fixed
size, cut from the file as it lies, so its answers do not depend on who asked or in which order rows are
learned.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from app.errors import TeacherLoadFailed
from worker.data import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.catalog.spec import PinnedData, PinnedModel, Resolved
    from worker.engine.device import Device
    from worker.engine.teachers import Live, Translation

VERSION = 1  # of this way of asking; another one, and nothing that was stored is found
BATCH = 64
COPIED_ROWS = 10_000  # at once


def key(resolved: "Resolved", teacher: "PinnedModel", data: "PinnedData") -> str:
    """All that the answers depend on."""
    return digest(
        {
            "teacher": teacher.digest,
            "data": data.sha256,
            "task": resolved.spec.task.kind,
            "inputs": resolved.data.inputs,
            "preprocessing": teacher.preprocessing,
            "dtype": "float32",
            "version": VERSION,
        }
    )


def ask(
    answer: "Live",
    teacher: "PinnedModel",
    encoded: "NDArray[Any]",
    normalize: Callable[[Tensor], Tensor],
    device: "Device",
    path: Path,
    told: Callable[[int], None],
) -> None:
    """Writes the answers to all encoded rows, (N, the teacher's classes) in float32. told: how many rows are
    done."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (len(encoded), len(teacher.labels)))
    for start in range(0, len(encoded), BATCH):
        rows = torch.from_numpy(encoded[start : start + BATCH])
        filler = rows[-1:].expand(
            BATCH - len(rows), *rows.shape[1:]
        )  # the last batch is as large as the others
        outputs = answer(normalize(torch.cat([rows, filler]).to(device.on)))
        assert outputs.logits is not None
        logits = outputs.logits[: len(rows)].cpu().numpy()
        check(teacher, logits)
        array[start : start + len(rows)] = logits
        told(start + len(rows))
    array.flush()


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
    parts: "Sequence[Sequence[NDArray[np.float32]]]",
    path: Path,
    *,
    classes: int,
) -> "NDArray[np.float32]":
    """(N, K, C): the answers of all K teachers as the job has them. parts[k]: teacher k's, file by file."""
    rows = sum(map(len, parts[0]))
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, len(translate), classes))
    for k, (translated, answers) in enumerate(zip(translate, parts, strict=True)):
        start = 0
        for part in answers:
            for place in range(0, len(part), COPIED_ROWS):
                some = translated(torch.from_numpy(part[place : place + COPIED_ROWS]))
                array[start + place : start + place + len(some), k] = some.numpy()
            start += len(part)
    array.flush()
    return array
