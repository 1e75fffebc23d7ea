"""The part of a plan about teachers: whether they are there, and how their classes become the job's."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec, PinnedModel
from app.db.tables import Model, ModelVersion
from app.errors import Fault, InvalidSpec, LabelMismatch, shown
from app.services import models
from app.services.planning import data_plan
from app.services.planning.checks import Checks
from app.services.planning.data_plan import Tables

MOST_NAMES = 10  # of classes in one message


def find(session: Session, project_id: str, spec: JobSpec, checks: Checks) -> list[ModelVersion]:
    """Those that are there; the checks say what is not."""
    checks.run("teachers", "/teachers", _check_presence, spec)
    found = [
        checks.run("teacher", f"/teachers/{place}/model", _teacher, session, project_id, spec, one.model)
        for place, one in enumerate(spec.teachers)
    ]
    checks.run("ensemble", "/ensemble", _check_ensemble, spec)
    return [version for version in found if version is not None]


def check_labels_alone(spec: JobSpec, tables: Tables) -> None:
    """A job without teachers learns from labels, and is measured by them. Raises InvalidSpec."""
    needed = (tables.train, tables.validation)
    unlabeled = [table.pin.reference for table in needed if not tables.labeled_in(table)]
    if not spec.teachers and unlabeled:
        detail = f"without a teacher there must be labels, and no row of {unlabeled[0]} has one"
        fault = Fault("/teachers", "no_labels", detail, "name a teacher, or give labeled rows")
        raise InvalidSpec(f"There is nothing to learn from: {detail}", fault)


def labels(spec: JobSpec, versions: Sequence[ModelVersion], tables: Tables) -> list[str]:
    """The job's: the first teacher's as its map has them, in order; without teachers those of the data.

    Raises LabelMismatch.
    """
    if spec.task.answer == "number" or not versions:
        return tables.labels
    named = [name for name in _mapped(spec, 0, versions[0]) if name is not None]
    found = list(dict.fromkeys(named))
    if len(found) < 2 <= len(versions[0].labels):
        raise _mismatch(0, f"its map leaves {len(found)} classes", "keep two classes or more")
    pointer = "/teachers/0" if spec.teachers[0].label_map is None else "/teachers/0/label_map"
    data_plan.check_labels(tables, found, pointer, spec.teachers[0].model)
    return found


def pinned(
    session: Session, spec: JobSpec, place: int, version: ModelVersion, names: Sequence[str], tables: Tables
) -> PinnedModel:
    """A teacher of this job. names: the job's labels. Raises LabelMismatch, InvalidSpec and ShapeMismatch."""
    if spec.task.answer == "number":
        _check_no_map(spec, place)
    order = [[0]] if spec.task.answer == "number" else _order(spec, place, version, names)
    own = spec.task.parse_preprocessing(version.preprocessing)
    bound = spec.task.bind(own, tables.train.columns, tables.inputs).model_dump(mode="json")
    return pin(session, version, order, bound, spec.teachers[place].weight)


def pin(
    session: Session,
    version: ModelVersion,
    order: list[list[int]],
    preprocessing: dict[str, Any],
    weight: float = 1.0,
) -> PinnedModel:
    return PinnedModel(
        reference=f"model:{name(session, version)}@{version.version}",
        version_id=version.id,
        digest=version.digest,
        format=version.format,
        family=version.family,
        labels=version.labels,
        order=order,
        gives=version.gives,
        preprocessing=preprocessing,
        details=version.details,
        parameters=version.parameters,
        weight=weight,
    )


def name(session: Session, version: ModelVersion) -> str:
    return session.get_one(Model, version.model_id).name


def _check_presence(spec: JobSpec) -> None:
    if not spec.teachers and not spec.scheme.teaches_itself:
        detail = f"the scheme {spec.scheme.kind} needs at least one teacher"
        fix = "name one, or choose a scheme whose students teach themselves: mutual or self_ema"
        raise InvalidSpec(detail.capitalize(), Fault("/teachers", "missing", detail, fix))


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


def _check_no_map(spec: JobSpec, place: int) -> None:
    if spec.teachers[place].label_map is not None:
        fault = Fault(
            f"/teachers/{place}/label_map", "no_classes", "a number has no classes to map", "leave it out"
        )
        raise InvalidSpec(f"Teacher {place + 1} answers a number, which needs no label_map", fault)


def _mapped(spec: JobSpec, place: int, version: ModelVersion) -> list[str | None]:
    """The job's name of each of a teacher's classes. Raises LabelMismatch for a map of others."""
    given = spec.teachers[place].label_map or {}
    if unknown := [label for label in given if label not in version.labels]:
        there = _listed(version.labels)
        raise _mismatch(place, f"it has no class {_listed(unknown)}", f"map classes that it has: {there}")
    return [given.get(label, label) for label in version.labels]


def _order(spec: JobSpec, place: int, version: ModelVersion, names: Sequence[str]) -> list[list[int]]:
    """For each of the job's labels its positions among the teacher's."""
    mapped = _mapped(spec, place, version)
    if missing := [label for label in names if label not in mapped]:
        knows = _listed([label for label in mapped if label is not None])
        detail = f"it has no class for {_listed(missing)}; it knows {knows}"
        raise _mismatch(place, detail, "map one of its classes to each of them, or choose another teacher")
    if strange := [label for label in mapped if label is not None and label not in names]:
        detail = f"its class {_listed(strange)} is none of the job's, which are {_listed(names)}"
        raise _mismatch(place, detail, "map it to one of the job's, or to null to drop it")
    return [[at for at, label in enumerate(mapped) if label == wanted] for wanted in names]


def _mismatch(place: int, detail: str, fix: str) -> LabelMismatch:
    fault = Fault(f"/teachers/{place}/label_map", "label_mismatch", detail, fix)
    return LabelMismatch(f"The classes of teacher {place + 1} cannot become the job's: {detail}", fault)


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(shown(one, 30) for one in names[:MOST_NAMES])
    return told + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
