"""The part of a plan about what teachers are asked: rows changed by chance, and how answers are kept."""

from collections.abc import Sequence
from typing import Any

from app.catalog.base import Augmentation, Schedule, Task
from app.catalog.spec import JobSpec, PinnedModel, SignalStore
from app.errors import Fault, Invalid, InvalidSpec
from app.services.planning.checks import Checks

FEW_CLASSES = 1000  # up to so many, every class' answer is stored
KEPT_CLASSES = 50  # of more than that, unless the spec says how many
FULL_BYTES = 1 << 30  # of answers in float32; what would be more is stored in float16
_TAIL = (
    "With 50 of 20,000 classes as frequent as words the gradient is off by 0.1 at temperature 1, by 0.5 at 2 "
    "and by 0.9 at 4"
)
_COST = "CIFAR pairs on a CPU: such a step took 1.6 to 10 times one that reads stored answers"


def check_augmentation(
    spec: JobSpec, preprocessing: Any, teachers: Sequence[PinnedModel], checks: Checks
) -> None:
    """preprocessing: the student's."""
    for place, form in enumerate(spec.data.augment):
        checks.run("augment", f"/data/augment/{place}", _check_fits, spec.task, form)
    checks.run("views", "/data/views", _check_views, spec)
    if spec.data.augment and all(form.modality == spec.task.modality for form in spec.data.augment):
        for place, teacher in enumerate(teachers):
            checks.run("augment", f"/teachers/{place}", _check_reading, spec.task, preprocessing, teacher)


def check_store(spec: JobSpec, teachers: Sequence[PinnedModel], checks: Checks) -> None:
    checks.run("signals", "/signals/top_k", _check_top_k, spec, teachers)


def lumped(spec: JobSpec, classes: int) -> int | None:
    """How many classes of each answer are stored, the others' mass being one more outcome; None: all, or the
    teachers answer live. classes: of the first teacher.

    Of several teachers all are stored: their tails are of different classes.
    """
    store, live = spec.signals.top_k, bool(spec.data.augment) and spec.data.views is None
    if live or store == "all" or spec.task.answer == "number":
        return None
    if store == "auto" and (len(spec.teachers) != 1 or spec.teachers[0].label_map):
        return None
    kept = (KEPT_CLASSES if classes > FEW_CLASSES else classes) if store == "auto" else store
    return kept if kept < classes else None


def decided(spec: JobSpec, teachers: Sequence[PinnedModel], rows: int) -> SignalStore:
    """With every `auto` made a choice. rows: of the training, unlabeled ones included."""
    kept = lumped(spec, len(teachers[0].labels)) if teachers else None
    dtype = spec.signals.dtype
    if dtype == "auto":
        dtype = "float16" if stored_bytes(spec, teachers, rows) > FULL_BYTES else "float32"
    return SignalStore(dtype=dtype, top_k=kept or "all")


def stored_bytes(spec: JobSpec, teachers: Sequence[PinnedModel], rows: int) -> int:
    """Of all answers to training rows, in float32; 0 where the teachers answer live."""
    if spec.data.augment and spec.data.views is None:
        return 0
    kept = lumped(spec, len(teachers[0].labels)) if teachers else None
    width = sum(4 * len(one.labels) for one in teachers) if kept is None else 8 * kept + 8
    return rows * (spec.data.views or 1) * width


def advise_on_signals(spec: JobSpec, teachers: Sequence[PinnedModel], rows: int, checks: Checks) -> None:
    """spec: with every default filled in."""
    data, kept = spec.data, spec.signals.top_k
    if data.augment and data.views is None and teachers:
        detail = "rows are drawn anew in each epoch, so the teachers answer in every step"
        fix = "set data.views to a few views a row, whose answers are stored once and for every later job"
        checks.warn("augment", "teachers_each_step", "/data/augment", detail, fix, evidence=_COST)
    if data.views and data.views > spec.training.epochs:
        detail = f"{data.views} views are asked for, and {spec.training.epochs} epochs use one each"
        checks.warn("views", "unused_views", "/data/views", detail, f"order {spec.training.epochs} or fewer")
    if isinstance(kept, int):
        _advise_on_tail(spec, kept, checks)
    size = stored_bytes(spec, teachers, rows) // (2 if spec.signals.dtype == "float16" else 1)
    if size > FULL_BYTES:
        detail = f"the teachers' answers to {rows:,} training rows take {size / (1 << 30):.1f} GiB"
        detail += f" in {spec.signals.dtype}, {'every class' if kept == 'all' else f'{kept} classes'} a row"
        fix = "set signals.top_k, or fewer data.views" if len(teachers) == 1 else "name one teacher alone"
        checks.warn("signals", "much_to_store", "/signals", detail, fix)


def _advise_on_tail(spec: JobSpec, kept: int, checks: Checks) -> None:
    hot = [_hottest(form.temperature) for form in spec.terms() if hasattr(form, "temperature")]
    if max(hot, default=1.0) > 1:
        detail = (
            f"{kept} classes are kept, and at temperature {max(hot):g} much of the mass lies in the others"
        )
        fix = "use temperature 1, or keep more classes with signals.top_k"
        checks.warn("signals", "softened_tail", "/signals/top_k", detail, fix, evidence=_TAIL)


def _hottest(temperature: Any) -> float:
    moving = isinstance(temperature, Schedule)
    return max(temperature.start, temperature.end) if moving else float(temperature)


def _check_fits(task: Task, form: Augmentation) -> None:
    if form.modality != task.modality:
        detail = f"{form.kind} changes {form.modality}s, and {task.kind} reads {task.modality}s"
        raise InvalidSpec(detail, Fault("", "other_modality", detail, "leave it out"))


def _check_views(spec: JobSpec) -> None:
    if spec.data.views and not spec.data.augment:
        detail = "without augmentation every view of a row is the same"
        fault = Fault("", "nothing_to_view", detail, "leave it out, or give data.augment")
        raise InvalidSpec(detail.capitalize(), fault)


def _check_reading(task: Task, preprocessing: Any, teacher: PinnedModel) -> None:
    """One augmented row serves all models."""
    try:
        task.source([preprocessing, task.parse_preprocessing(teacher.preprocessing)])
    except Invalid as error:
        detail = f"{teacher.reference} reads rows otherwise than the student, so no augmented row serves both"
        fix = "leave data.augment out, or name teachers that read as the first one does"
        raise InvalidSpec(detail, Fault("", "reads_otherwise", detail, fix)) from error


def _check_top_k(spec: JobSpec, teachers: Sequence[PinnedModel]) -> None:
    if not isinstance(spec.signals.top_k, int):
        return
    if spec.task.answer == "number":
        detail = "an answer that is a number has no classes"
    elif len(teachers) > 1:
        detail = f"{len(teachers)} teachers have tails of different classes, which cannot be put together"
    elif any(sorted(one.order) != [[place] for place in range(len(one.labels))] for one in teachers):
        detail = "a label_map that joins or drops classes needs all of them"
    else:
        return
    raise InvalidSpec(detail.capitalize(), Fault("", "not_lumped", detail, 'use "auto" or "all"'))
