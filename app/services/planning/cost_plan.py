"""The part of a plan that weighs the order before anything is built: memory, operations, stored answers."""

from collections.abc import Sequence

from app.catalog.base import Frozen, Input
from app.catalog.spec import JobSpec, PinnedModel
from app.errors import Fault, WillNotFit
from app.services.planning.checks import Checks
from app.services.planning.data_plan import Tables
from app.services.planning.signal_plan import stored_bytes
from app.settings import Settings

TRAINED_BYTES = 16  # of a learned number: itself, its gradient and two moments of the optimizer, in float32
NUMBER_BYTES = 4
FORTH_AND_BACK = 3  # a step costs as much as three forwards


class Cost(Frozen):
    """training_bytes: of the largest training, all students that go together. signal_bytes: stored answers of
    the teachers. training_operations: of all trainings, without the teachers' forwards."""

    training_bytes: int
    training_operations: int
    signal_bytes: int


def cost(
    spec: JobSpec, seen: Input, classes: int, *, tables: Tables, teachers: Sequence[PinnedModel]
) -> Cost:
    """Estimates. spec: with every default filled in."""
    training, hops = spec.training, spec.scheme.hops(spec.student.architecture)
    rows_at_once = min(training.micro_batch_size or training.batch_size, training.batch_size)
    operations, largest = 0, 0
    for hop in hops:
        works = [form.work(seen, classes) for _, form in hop]
        weights = sum(form.parameters(seen, classes) for _, form in hop)
        numbers = sum(work.numbers for work in works) * rows_at_once
        largest = max(largest, weights * TRAINED_BYTES + numbers * NUMBER_BYTES)
        operations += sum(work.operations for work in works)
    own = spec.student.architecture.work(seen, classes).operations
    operations += own * (spec.evaluation.seeds * (2 if "control" in spec.evaluation.compare else 1) - 1)
    rows = tables.training_rows * training.epochs + tables.labeled * training.finetune.epochs
    return Cost(
        training_bytes=largest,
        training_operations=FORTH_AND_BACK * operations * rows,
        signal_bytes=stored_bytes(spec, teachers, tables.training_rows),
    )


def check_cost(settings: Settings, spec: JobSpec, found: Cost, checks: Checks) -> None:
    """Whether it is within what this installation does for one job."""
    memory, operations = settings.max_training_bytes, settings.max_training_operations
    checks.run(
        "memory",
        "/training/micro_batch_size",
        _demand,
        f"a training would take about {found.training_bytes:,} bytes of memory, {memory:,} are allowed",
        "order a smaller student or image, or a smaller micro_batch_size",
        found.training_bytes <= memory,
    )
    checks.run(
        "operations",
        "/training/epochs",
        _demand,
        f"the trainings would take about {found.training_operations:.1e} operations, {operations:.1e} are "
        "allowed",
        "order fewer epochs, seeds or generations, or a smaller student",
        found.training_operations <= operations,
    )
    checks.run(
        "signals",
        "/data/views" if spec.data.views else "/signals/top_k",
        _demand,
        f"the teachers' answers would take {found.signal_bytes:,} bytes, {settings.max_signal_bytes:,} are "
        "allowed",
        "store fewer views or classes, or float16",
        found.signal_bytes <= settings.max_signal_bytes,
    )


def _demand(detail: str, fix: str, fits: bool) -> None:
    """Raises WillNotFit."""
    if not fits:
        raise WillNotFit(detail[:1].upper() + detail[1:], Fault("", "will_not_fit", detail, fix))
