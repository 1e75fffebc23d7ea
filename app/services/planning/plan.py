"""From the spec that was sent to the order that is carried out: every default and every pin filled in.

All that can be known without torch is looked at here, so that what must fail fails before a job exists.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.catalog.spec import JobSpec, PinnedModel, Resolved, SignalStore, steps_of, with_ending
from app.db.tables import ModelVersion
from app.errors import Fault, Invalid, InvalidSpec, QuotaExceeded
from app.services import quotas
from app.services.planning import data_plan, student_plan, teacher_plan
from app.services.planning.advice import advise
from app.services.planning.checks import Check, Checks
from app.services.planning.cost_plan import check_cost, cost
from app.services.planning.data_plan import Tables
from app.services.planning.evaluation_plan import check_evaluation, check_limits
from app.services.planning.initialization_plan import initialization
from app.services.planning.loss_plan import check_layers, check_losses, check_students
from app.services.planning.resource_plan import Queue, check_devices, queue
from app.services.planning.signal_plan import advise_on_signals, check_augmentation, check_store, decided
from app.settings import Settings


class Estimate(Frozen):
    """What the order costs, as far as it can be counted beforehand."""

    student_parameters: int
    student_bytes: int
    teacher_parameters: int
    times_smaller: float | None = Field(description="than all teachers together; null where none is counted")
    training_rows: int
    labeled_rows: int = Field(description="of the training rows")
    steps_per_epoch: int
    total_steps: int = Field(description="of all trainings: the scheme's students, the control, every seed")
    training_bytes: int = Field(description="memory of the largest training, about")
    training_operations: float = Field(description="of all trainings, about, without the teachers' forwards")
    signal_bytes: int = Field(description="of the teachers' stored answers; 0 where they answer live")


class Plan(Frozen):
    """What POST /v1/jobs would do. resolved and estimate are null when a check failed, unless of a quota."""

    ok: bool
    checks: list[Check]
    resolved: Resolved | None
    estimate: Estimate | None
    queue: Queue


def plan(session: Session, settings: Settings, project_id: str, spec: JobSpec) -> Plan:
    """Looks and stores nothing."""
    checks = Checks()
    refused = quotas.refusals(session, project_id, spec.resources.accelerator)
    checks.all += [_refusal(error) for error in refused] or [Check(name="quota", status="ok")]
    tables, resolved = None, None
    with suppress(Invalid):  # the checks say it
        tables, resolved = _resolve(session, settings, project_id, spec, checks)
    standing = queue(session, project_id, spec.resources, checks)
    return Plan(
        ok=resolved is not None and not refused,
        checks=checks.all,
        resolved=resolved,
        estimate=_estimate(resolved, tables) if resolved and tables else None,
        queue=standing,
    )


def resolve(session: Session, settings: Settings, project_id: str, spec: JobSpec) -> Resolved:
    """The order. Raises Invalid and its children, with a pointer and a fix for everything that is wrong."""
    return _resolve(session, settings, project_id, spec, Checks())[1]


def _resolve(
    session: Session, settings: Settings, project_id: str, spec: JobSpec, checks: Checks
) -> tuple[Tables, Resolved]:
    checks.run("devices", "/resources/devices", check_devices, spec)
    settings = quotas.tightened(session, settings, project_id)
    found = teacher_plan.find(session, project_id, spec, checks)
    tables = data_plan.look(session, project_id, spec.data, spec.task, checks)
    checks.demand()
    assert tables is not None
    return tables, _fitted(session, settings, project_id, spec, versions=found, tables=tables, checks=checks)


def _fitted(
    session: Session,
    settings: Settings,
    project_id: str,
    spec: JobSpec,
    *,
    versions: Sequence[ModelVersion],
    tables: Tables,
    checks: Checks,
) -> Resolved:
    """Teachers and data are there; now whether they, the student and the losses fit together."""
    labels, known = _labeled(session, spec, versions, tables, checks)
    check_losses(spec, versions, tables, checks)
    check_layers(session, spec, versions, checks)
    checks.run("finetune", "/training/finetune/epochs", _check_finetune, spec, tables)
    check_evaluation(spec, tables, checks)
    first = versions[0] if versions else None
    preprocessing = _preprocessing(spec, tables, first, checks)
    seen = spec.task.input(preprocessing)
    config, size = (first.details.get("config"), first.parameters) if first else (None, 0)
    order = student_plan.resolved(spec, config, size, checks)
    checks.demand()
    student_plan.check_students(settings, order, seen, labels, checks)
    check_augmentation(spec, preprocessing, known, checks)
    check_store(spec, known, checks)
    architecture = order.student.architecture
    start = checks.run(
        "initialization", "/student/initialize/model", initialization, session, project_id, order, known
    )
    parameters = architecture.parameters(seen, len(labels))
    stem = teacher_plan.name(session, first) if first else _stem(tables)
    order = _filled_in(order, preprocessing, decided(spec, known, tables.training_rows), stem)
    check_limits(order, parameters, checks)
    check_cost(settings, order, cost(order, seen, len(labels), tables=tables, teachers=known), checks)
    check_students(order, architecture, versions, checks)
    checks.demand()
    advise(order, known, tables, parameters, checks)
    advise_on_signals(order, known, tables.training_rows, checks)
    return Resolved(
        spec=order,
        teachers=known,
        initialize=start,
        data=tables.pinned(spec.data),
        labels=labels,
        input=seen,
        preprocessing=preprocessing.model_dump(mode="json"),
        parameters=parameters,
    )


def _refusal(error: QuotaExceeded) -> Check:
    (fault,) = error.faults
    return Check(name="quota", status="fail", **{**vars(fault), "detail": error.detail})


def _labeled(
    session: Session, spec: JobSpec, versions: Sequence[ModelVersion], tables: Tables, checks: Checks
) -> tuple[list[str], list[PinnedModel]]:
    """The job's labels, and the teachers that answer with them; what is wrong the checks say."""
    labels = checks.run("labels", "/teachers/0", teacher_plan.labels, spec, versions, tables) or []
    pinned = [
        checks.run(
            "labels", f"/teachers/{place}", teacher_plan.pinned, session, spec, place, one, labels, tables
        )
        for place, one in enumerate(versions if labels else [])
    ]
    checks.run("labels", "/teachers", teacher_plan.check_labels_alone, spec, tables)
    return labels, [teacher for teacher in pinned if teacher is not None]


def _preprocessing(spec: JobSpec, tables: Tables, first: ModelVersion | None, checks: Checks) -> Frozen:
    """The student's own. first: the first teacher. Raises Invalid for all that was wrong so far."""
    task, columns = spec.task, tables.train.columns
    found = checks.run(
        "preprocessing", "/task", task.preprocessing, columns, tables.inputs, _own_preprocessing(first)
    )
    checks.demand()
    assert found is not None
    return task.with_target(found, columns[tables.label])


def _check_finetune(spec: JobSpec, tables: Tables) -> None:
    if spec.training.finetune.epochs and not tables.labeled:
        detail = "the last stage learns from labels, and no training row has one"
        fault = Fault("", "no_labels", detail, "leave it out, or give labeled rows")
        raise InvalidSpec(detail.capitalize(), fault)


def _own_preprocessing(version: ModelVersion | None) -> dict[str, Any] | None:
    """A black box says little of how its input was made, so a student does not copy it."""
    return None if version is None or version.format == "onnx" else version.preprocessing


def _filled_in(spec: JobSpec, preprocessing: Any, store: SignalStore, stem: str) -> JobSpec:
    """stem: what the student is named after, where the spec does not name it."""
    named = spec.output.model or with_ending(stem, f"-{spec.student.architecture.kind.replace('_', '-')}")
    return spec.model_copy(
        update={
            "task": spec.task.decided(preprocessing),
            "losses": spec.terms(),
            "signals": store,
            "output": spec.output.model_copy(update={"model": named}),
        }
    )


def _stem(tables: Tables) -> str:
    """The data's name."""
    return tables.train.pin.reference.removeprefix("dataset:").partition("@")[0]


def _estimate(resolved: Resolved, tables: Tables) -> Estimate:
    training, validation = resolved.spec.training, resolved.data.validation
    rows, labeled = tables.learned_rows(validation), tables.learned_labels(validation)
    steps, last = steps_of(rows, training.batch_size), steps_of(labeled, training.batch_size)
    once = steps * training.epochs + last * training.finetune.epochs
    teacher = sum(one.parameters for one in resolved.teachers)
    spent = cost(
        resolved.spec, resolved.input, len(resolved.labels), tables=tables, teachers=resolved.teachers
    )
    return Estimate(
        **spent.model_dump(),
        student_parameters=resolved.parameters,
        student_bytes=4 * resolved.parameters,
        teacher_parameters=teacher,
        times_smaller=round(teacher / resolved.parameters, 1) if teacher else None,
        training_rows=rows,
        labeled_rows=labeled,
        steps_per_epoch=steps,
        total_steps=once * _trainings(resolved.spec, tables),
    )


def _trainings(spec: JobSpec, tables: Tables) -> int:
    """How many there are one after the other; those of one hop go together."""
    hops = spec.scheme.hops(spec.student.architecture)
    control = "control" in spec.evaluation.compare and tables.labeled > 0
    return len(hops) - 1 + spec.evaluation.seeds * (1 + control)
