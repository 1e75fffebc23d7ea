"""The seventh phase: the student is written in every format, opened again, compared with torch, and timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from app.catalog.base import Architecture, Bundle, Export, Frozen
from app.errors import ExportFailed, ExportMismatch
from app.serving.student import OnnxStudent
from worker.engine.fetch import Material
from worker.engine.judging.metrics import Judge, judge_of
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

COMPARED_ROWS = 512  # of the report's rows, at most
BATCHES = (1, 32)
MEASURED_S = 1.0  # a batch size, after warm-up
WARM_UPS, MOST_RUNS = 5, 300


class Latency(Frozen):
    """Of one batch size: milliseconds a batch, rows a second at the median."""

    batch: int
    p50_ms: float
    p95_ms: float
    rows_per_s: float


@dataclass(frozen=True)
class Exported:
    """One format: its logits for the compared rows, and the largest difference of one from torch.

    likeness: to torch over these rows, as the task measures it. value: the task's metric over them; None
    where they have no labels.
    """

    form: Export
    files: list[str]
    run: "Run"
    logits: "NDArray[np.float32]"
    difference: float
    likeness: float
    value: float | None = None
    latency: tuple[Latency, ...] = ()


def export(order: Order, material: Material, student: nn.Module) -> list[Exported]:
    """Writes into the folder `export` of the job's. Raises ExportFailed, ExportMismatch."""
    split, (sample, rows) = material.report, samples(order, material)
    exported = write_all(order, student, sample, rows, order.folder / "export")
    labels = split.labels[split.rows[: len(rows)]] if len(split.labeled) else None
    measured, judge = [], judge_of(order.task, order.preprocessing)
    for done, one in enumerate(exported):
        run = one.run
        if one.form.serves:
            run = OnnxStudent(order.folder / "export" / one.files[0], order.parts.settings.serving_threads)
        speeds = tuple(latency(run, rows, batch) for batch in BATCHES)
        value = None if labels is None else judge.truth(one.logits, labels).get(order.task.metric)
        measured.append(replace(one, latency=speeds, value=value))
        order.journal.progress((done + 1) / len(exported))
    return measured


def samples(order: Order, material: Material) -> "tuple[Array, Array]":
    """Normalized training rows, for tracing and calibration, and those of the report that files are compared
    on."""
    split = material.report
    encoded = material.tables.laid_end_to_end(split, order.task, order.preprocessing)
    rows = np.ascontiguousarray(order.normalize(encoded[split.rows[:COMPARED_ROWS]]))
    calibration = material.tables.laid_end_to_end(material.training, order.task, order.preprocessing)
    chosen = np.random.default_rng(order.seed).permutation(material.training.rows)[: _sample_rows(order)]
    return order.normalize(calibration[np.sort(chosen)]), rows


def write_all(
    order: Order,
    student: nn.Module,
    sample: "Array",
    rows: "Array",
    folder: Path,
    architecture: Architecture | None = None,
) -> list[Exported]:
    """Every format, opened again. student: on the CPU, in eval mode; architecture: its own, None: the job's.

    sample, rows: as `samples` gives them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = order.resolved.spec
    bundle = Bundle(
        student=student,
        architecture=architecture or spec.student.architecture,
        task=order.task,
        preprocessing=order.preprocessing,
        input=order.resolved.input,
        labels=order.resolved.labels,
        sample=sample,
        files=order.folder,
    )
    with torch.no_grad():
        wanted = _in_batches(lambda batch: student(torch.from_numpy(batch)).logits.numpy(), rows)
    judge = judge_of(order.task, order.preprocessing)
    return [_written(form, bundle, folder, judge, rows=rows, wanted=wanted) for form in spec.exports]


def _sample_rows(order: Order) -> int:
    return max(form.sample_rows() for form in order.resolved.spec.exports)


def _written(
    form: Export, bundle: Bundle, folder: Path, judge: Judge, *, rows: "Array", wanted: "Array"
) -> Exported:
    try:
        files = form.write(bundle, folder)
        run = form.run(bundle, folder)
        found = _in_batches(run, rows)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportFailed(
            f"The student cannot be written as {form.kind}. "
            "Order the job without this export, or with another student family."
        ) from error
    if not np.isfinite(found).all():
        raise ExportMismatch(
            f"The {form.kind} file answers some rows with NaN or infinity. "
            "Order the job without this export, or another student family."
        )
    difference = float(np.abs(found - wanted).max())
    if form.tolerance is not None and not difference <= form.tolerance:
        raise ExportMismatch(
            f"The {form.kind} file differs from the student by {difference:.2g} in a logit, where "
            f"{form.tolerance:.0e} is allowed. Order the job without this export, or another student family."
        )
    return Exported(form, files, run, found, difference, judge.likeness(found, wanted)[judge.imitation])


def _in_batches(run: "Run", rows: "Array") -> "Array":
    starts = range(0, len(rows), BATCHES[-1])
    return np.concatenate([run(rows[start : start + BATCHES[-1]]) for start in starts])


def latency(run: "Run", rows: "Array", batch: int) -> Latency:
    """Runs whole batches of real rows, one at a time."""
    inputs = np.resize(rows, (batch, *rows.shape[1:]))  # fewer rows than that are repeated
    for _ in range(WARM_UPS):
        run(inputs)
    seconds: list[float] = []
    while len(seconds) < MOST_RUNS and sum(seconds) < MEASURED_S:
        started = time.perf_counter()
        run(inputs)
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    return Latency(
        batch=batch, p50_ms=float(p50 * 1000), p95_ms=float(p95 * 1000), rows_per_s=float(batch / p50)
    )
