"""From the spec that was sent to the order that is carried out: every default and every pin filled in.

All that can be known without torch is looked at here, so that what must fail fails before a job exists.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.catalog.base import Architecture, Frozen, Input
from app.catalog.spec import JobSpec, PinnedModel, Resolved, steps_of
from app.db.tables import Job, Model, ModelVersion
from app.errors import Fault, Invalid, InvalidSpec, LabelMismatch, ShapeMismatch, WillNotFit, shown
from app.services import data_plan, models
from app.services.advice import advise
from app.services.checks import Check, Checks
from app.services.data_plan import Tables
from app.services.evaluation_plan import check_evaluation, check_limits
from app.services.loss_plan import check_losses, check_students
from app.settings import Settings


class Estimate(Frozen):
    """What the order costs, as far as it can be counted beforehand."""

    student_parameters: int
    student_bytes: int
    teacher_parameters: int
    times_smaller: float
    training_rows: int
    labeled_rows: int
    steps_per_epoch: int
    total_steps: int


class Queue(Frozen):
    running: int
    ahead: int


class Plan(Frozen):
    """What POST /v1/jobs would do. resolved and estimate are null when a check failed."""

    ok: bool
    checks: list[Check]
    resolved: Resolved | None
    estimate: Estimate | None
    queue: Queue


def plan(session: Session, settings: Settings, project_id: str, spec: JobSpec) -> Plan:
    """Looks and stores nothing."""
    checks = Checks()
    tables, resolved = None, None
    with suppress(Invalid):  # the checks say it
        tables, resolved = _resolve(session, settings, project_id, spec, checks)
    return Plan(
        ok=resolved is not None,
        checks=checks.all,
        resolved=resolved,
        estimate=_estimate(resolved, tables) if resolved and tables else None,
        queue=_queue(session, spec.resources.priority),
    )


def resolve(session: Session, settings: Settings, project_id: str, spec: JobSpec) -> Resolved:
    """The order. Raises Invalid and its children, with a pointer and a fix for everything that is wrong."""
    return _resolve(session, settings, project_id, spec, Checks())[1]


def _resolve(
    session: Session, settings: Settings, project_id: str, spec: JobSpec, checks: Checks
) -> tuple[Tables, Resolved]:
    teachers = [
        checks.run(
            "teacher",
            f"/teachers/{place}/model",
            _teacher,
            session,
            project_id,
            spec,
            one.model,
        )
        for place, one in enumerate(spec.teachers)
    ]
    checks.run("ensemble", "/ensemble", _check_ensemble, spec)
    tables = data_plan.look(session, project_id, spec.data, spec.task, checks)
    checks.demand()
    assert tables is not None
    found = [version for version in teachers if version is not None]
    return tables, _fitted(session, settings, spec, found, tables, checks)


def _fitted(
    session: Session,
    settings: Settings,
    spec: JobSpec,
    versions: Sequence[ModelVersion],
    tables: Tables,
    checks: Checks,
) -> Resolved:
    """Teachers and data are there; now whether they, the student and the losses fit together."""
    first = versions[0]
    pinned = [
        checks.run(
            "labels",
            f"/teachers/{place}",
            _pinned,
            session,
            spec,
            place,
            one,
            first,
            tables,
        )
        for place, one in enumerate(versions)
    ]
    check_losses(spec, versions, tables, checks)
    check_evaluation(spec, tables, checks)
    task, columns = spec.task, tables.train.columns
    preprocessing = checks.run(
        "preprocessing",
        "/task",
        task.preprocessing,
        columns,
        tables.inputs,
        _own_preprocessing(first),
    )
    checks.demand()
    assert preprocessing is not None
    preprocessing = task.with_target(preprocessing, columns[tables.label])
    seen = task.input(preprocessing)
    architecture = checks.run("student", "/student/architecture", _student, settings, spec, first, seen)
    checks.demand()
    assert architecture is not None
    parameters = architecture.parameters(seen, len(first.labels))
    order = _filled_in(session, spec, architecture, preprocessing, first)
    check_limits(order, parameters, checks)
    check_students(order, architecture, versions, checks)
    checks.demand()
    known = [teacher for teacher in pinned if teacher is not None]
    advise(order, settings, known, tables, parameters, checks)
    return Resolved(
        spec=order,
        teachers=known,
        data=tables.pinned(spec.data),
        labels=tables.labels if task.answer == "number" else list(first.labels),
        input=seen,
        preprocessing=preprocessing.model_dump(mode="json"),
        parameters=parameters,
    )


def _teacher(session: Session, project_id: str, spec: JobSpec, reference: str) -> ModelVersion:
    version = models.find(session, project_id, reference)
    if version.task != spec.task.kind:
        fault = Fault(
            "/task/kind",
            "other_task",
            f"{reference} is a model for {version.task}",
            "give both the same task",
        )
        raise InvalidSpec(f"{shown(reference)} does {version.task}, the job is {spec.task.kind}", fault)
    return version


def _check_ensemble(spec: JobSpec) -> None:
    if len(spec.teachers) > 1 and spec.ensemble is None:
        fix = "give mean_probabilities or mean_logits: they are different targets"
        raise InvalidSpec(
            f"{len(spec.teachers)} teachers need a rule that makes one target of them",
            Fault("/ensemble", "missing", "several teachers and no rule", fix),
        )
    if spec.ensemble == "mean_probabilities" and spec.task.answer == "number":
        detail = "numbers have no probabilities"
        raise InvalidSpec(
            f"The teachers cannot be put together by mean_probabilities: {detail}",
            Fault("/ensemble", "no_probabilities", detail, "use mean_logits, the mean of their answers"),
        )


def _pinned(
    session: Session, spec: JobSpec, place: int, version: ModelVersion, first: ModelVersion, tables: Tables
) -> PinnedModel:
    name = _name(session, version)
    reference = f"model:{name}@{version.version}"
    pointer = f"/teachers/{place}"
    numbers = spec.task.answer == "number"
    if numbers and spec.teachers[place].label_map is not None:
        fault = Fault(f"{pointer}/label_map", "no_classes", "a number has no classes to map", "leave it out")
        raise InvalidSpec(f"{reference} answers a number, which needs no label_map", fault)
    if not numbers:
        data_plan.check_labels(tables, version.labels, pointer, reference)
    if not numbers and sorted(version.labels) != sorted(first.labels):
        fault = Fault(
            pointer,
            "label_mismatch",
            "its labels are not those of the first teacher",
            "choose teachers alike",
        )
        raise LabelMismatch(f"{reference} knows other labels than the first teacher", fault)
    own = spec.task.parse_preprocessing(version.preprocessing)
    bound = spec.task.bind(own, tables.train.columns, tables.inputs)
    return PinnedModel(
        reference=reference,
        version_id=version.id,
        digest=version.digest,
        format=version.format,
        family=version.family,
        labels=version.labels,
        order=[[0]] if numbers else [[version.labels.index(label)] for label in first.labels],
        gives=version.gives,
        preprocessing=bound.model_dump(mode="json"),
        details=version.details,
        parameters=version.parameters,
        weight=spec.teachers[place].weight,
    )


def _own_preprocessing(version: ModelVersion) -> dict[str, Any] | None:
    """A black box says little of how its input was made, so a student does not copy it."""
    return None if version.format == "onnx" else version.preprocessing


def _student(settings: Settings, spec: JobSpec, first: ModelVersion, seen: Input) -> Architecture:
    pointer = "/student/architecture"
    architecture = spec.student.architecture.resolve(first.details.get("config"), first.parameters)
    if reason := architecture.accepts(seen):
        raise ShapeMismatch(
            f"The student cannot take the input: {reason}",
            Fault(pointer, "input", reason, "choose another family, or other sizes"),
        )
    parameters = architecture.parameters(seen, len(first.labels))
    if parameters > settings.max_parameters:
        detail = f"the student would have {parameters:,} parameters, {settings.max_parameters:,} are allowed"
        raise WillNotFit(
            detail.capitalize(), Fault(pointer, "will_not_fit", detail, "order a smaller student")
        )
    for place, export in enumerate(spec.exports):
        if export.kind not in architecture.exports:
            known = ", ".join(sorted(architecture.exports))
            detail = f"{architecture.kind} leaves as {known}, not as {export.kind}"
            raise InvalidSpec(
                detail, Fault(f"/exports/{place}/kind", "unsupported", detail, f"choose from {known}")
            )
    return architecture


def _filled_in(
    session: Session, spec: JobSpec, architecture: Architecture, preprocessing: Any, first: ModelVersion
) -> JobSpec:
    name = spec.output.model or f"{_name(session, first)}-{architecture.kind.replace('_', '-')}"[:100]
    return spec.model_copy(
        update={
            "task": spec.task.decided(preprocessing),
            "student": spec.student.model_copy(update={"architecture": architecture}),
            "losses": spec.terms(),
            "output": spec.output.model_copy(update={"model": name}),
        }
    )


def _name(session: Session, version: ModelVersion) -> str:
    return session.get_one(Model, version.model_id).name


def _estimate(resolved: Resolved, tables: Tables) -> Estimate:
    training, rows = resolved.spec.training, tables.learned_rows(resolved.data.validation)
    steps = steps_of(rows, training.batch_size)
    teacher = sum(one.parameters for one in resolved.teachers)
    return Estimate(
        student_parameters=resolved.parameters,
        student_bytes=4 * resolved.parameters,
        teacher_parameters=teacher,
        times_smaller=round(teacher / resolved.parameters, 1),
        training_rows=rows,
        labeled_rows=tables.labeled,
        steps_per_epoch=steps,
        total_steps=steps * training.epochs,
    )


def _queue(session: Session, priority: int) -> Queue:
    """Of the whole installation: a queue has no walls between projects."""
    running = session.scalar(select(func.count()).select_from(Job).where(Job.status == "running"))
    before = select(func.count()).select_from(Job).where(Job.status == "queued", Job.priority >= priority)
    return Queue(running=running or 0, ahead=session.scalar(before) or 0)
