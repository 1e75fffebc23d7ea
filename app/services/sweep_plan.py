"""What is looked at before a sweep is accepted: its pointers, the ends of its ranges, and some corners."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.catalog.measures import measures
from app.catalog.spec import Holdout, JobSpec
from app.catalog.sweep import MOST_LABELS, FloatRange, SweepSpec, overlaps, parts_of, spec_at, value_at
from app.errors import (
    Fault,
    Invalid,
    InvalidSpec,
    ReferenceNotReady,
    UnknownReference,
    pointer,
    sentence,
    shown,
)
from app.services import datasets, models
from app.services.planning import data_plan
from app.services.planning import plan as job_plan
from app.services.planning.checks import Check, Checks
from app.services.planning.evaluation_plan import check_measured
from app.services.planning.plan import Estimate
from app.settings import Settings

PLANNED = 48  # values of the space that are planned each alone; more are drawn from
CORNERS = 4  # drawn combinations of ends, beside the first and the last of all

Json = dict[str, Any]

_APART = "is no part of the method"
_YARDSTICK = "is what the trials are measured by: they could not be compared"
_HELD_OUT = "draws the rows that are held out for validation: the trials could not be compared"
FIXED = {
    "/name": _APART,
    "/labels": _APART,
    "/output": _APART,
    "/resources": _APART,
    "/evaluation": _YARDSTICK,
    "/data/validation": _YARDSTICK,
    "/data/test": _YARDSTICK,
    "/data/columns/label": _YARDSTICK,
}
FIXED_WITH_HOLDOUT = {"/data/train": _HELD_OUT, "/training/seed": _HELD_OUT}


class SweepPlan(Frozen):
    """What POST /v1/sweeps would do. estimate: of the spec as it stands; null when a check failed."""

    ok: bool
    checks: list[Check]
    trials: int
    estimate: Estimate | None


def plan(session: Session, settings: Settings, project_id: str, order: SweepSpec) -> SweepPlan:
    """Looks and stores nothing."""
    checks = _checked(session, settings, project_id, order)
    ok = all(check.status != "fail" for check in checks.all)
    of_spec = job_plan.plan(session, settings, project_id, order.spec).estimate if ok else None
    trials = int(min(order.budget.trials, order.combinations()))
    return SweepPlan(ok=ok, checks=checks.all, trials=trials, estimate=of_spec)


def resolve(session: Session, settings: Settings, project_id: str, order: SweepSpec) -> Json:
    """The order with its own defaults filled in and every moving reference pinned, as JSON of a SweepSpec.

    Raises Invalid and its children, with a pointer and a fix for everything that is wrong.
    """
    _checked(session, settings, project_id, order).demand()
    whole = order.model_dump(mode="json", exclude={"spec"})
    whole["space"] = _pinned(session, project_id, whole["space"])
    sent = spec_at(order.spec, {})
    return {
        **whole,
        "spec": {
            part: _pinned(session, project_id, value) if part in ("teachers", "student", "data") else value
            for part, value in sent.items()
        },
    }


def _pinned(session: Session, project_id: str, value: Any) -> Any:
    """References to models and datasets with their versions written out; one that points at nothing stays."""
    if isinstance(value, dict):
        return {key: _pinned(session, project_id, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_pinned(session, project_id, one) for one in value]
    try:
        if isinstance(value, str) and value.startswith(("model:", "job:")):
            entry = models.entry(session, models.find(session, project_id, value))
            return f"model:{entry.name}@{entry.version.version}"
        if isinstance(value, str) and value.startswith("dataset:"):
            dataset, split = datasets.find(session, project_id, value)
            return f"dataset:{dataset.name}@{dataset.version}#{split}"
    except (UnknownReference, ReferenceNotReady):
        pass
    return value


# ---- checks


def _checked(session: Session, settings: Settings, project_id: str, order: SweepSpec) -> Checks:
    checks = Checks()
    checks.run("spec", "/spec", _resolve, session, settings, project_id, order.spec, "/spec")
    checks.run("labels", "/labels", _check_labels, order)
    checks.run("objective", "/objective", _check_objective, order)
    checks.run("objective", "/objective/metric", _check_measured, session, project_id, order)
    for place in order.space:
        checks.run("pointer", pointer("space", place), _check_pointer, order, place)
        checks.run("value", pointer("space", place), _check_unlike, session, project_id, order, place)
    if any(check.status == "fail" for check in checks.all):
        return checks
    tries = list(_ends(order))
    if len(tries) > PLANNED:
        tries = Random(order.seed).sample(tries, PLANNED)  # noqa: S311
    for at, values in tries:
        checks.run("value", at, _try, session, settings, project_id, order, values, at)
    if all(check.status != "fail" for check in checks.all):
        for values in _corners(order):
            checks.run("corner", "/space", _try, session, settings, project_id, order, values, "/space")
    return checks


def _resolve(session: Session, settings: Settings, project_id: str, spec: JobSpec, before: str) -> None:
    try:
        job_plan.resolve(session, settings, project_id, spec)
    except Invalid as error:
        faults = [Fault(before + one.pointer, one.code, one.detail, one.fix) for one in error.faults]
        raise type(error)(error.detail, *faults) from None


def _check_labels(order: SweepSpec) -> None:
    count = len(order.spec.labels | order.labels)
    if count > MOST_LABELS:
        detail = f"sweep and spec have {count} labels together, {MOST_LABELS} are allowed"
        raise InvalidSpec(detail.capitalize(), Fault("/labels", "too_many", detail, "leave some out"))


def _check_objective(order: SweepSpec) -> None:
    known, metric = measures(order.spec.task.answer), order.objective.metric
    if metric != "auto" and metric not in known:
        detail = f"{order.spec.task.kind} has no {metric}"
        fix = f"use auto, or one of {', '.join(known)}"
        raise InvalidSpec(detail, Fault("/objective/metric", "unknown_metric", detail, fix))
    _check_served(order, order.spec, "/objective/against")


def _check_served(order: SweepSpec, spec: JobSpec, at: str) -> None:
    if order.objective.against == "latency_ms" and not any(export.serves for export in spec.exports):
        kinds = ", ".join(export.kind for export in spec.exports)
        detail = f"latency is measured as the student is served, and none of {kinds} can be served"
        fix = 'add {"kind": "onnx"} to the exports'
        raise InvalidSpec(sentence(detail), Fault(at, "not_served", detail, fix))


def _check_measured(session: Session, project_id: str, order: SweepSpec) -> None:
    tables = data_plan.look(session, project_id, order.spec.data, order.spec.task, Checks())
    if tables is not None:
        check_measured(order.spec, tables, order.objective.metric)


def _check_pointer(order: SweepSpec, place: str) -> None:
    at = pointer("space", place)
    fixed = FIXED | (FIXED_WITH_HOLDOUT if isinstance(order.spec.data.validation, Holdout) else {})
    for other, why in fixed.items():
        if overlaps(place, other):
            fix = "leave it out" if why is _APART else "leave it out, or run a sweep for each value"
            raise InvalidSpec(f"{place} cannot vary", Fault(at, "cannot_vary", f"{other} {why}", fix))
    try:
        value_at(order.spec, place)
    except LookupError as error:
        part, known = error.args
        detail = f"the spec has no {place}: {shown(part)} is not there"
        entries = (
            "there is entry 0 alone" if len(known) == 1 else f"there are the entries 0 to {len(known) - 1}"
        )
        there = f"there are {', '.join(known[:30])}" if known else "nothing lies inside it"
        there = entries if known == [str(one) for one in range(len(known))] and known else there
        fix = f"{there}; write a part that is null or left to its default into spec first"
        raise InvalidSpec(sentence(detail), Fault(at, "unknown_pointer", detail, fix)) from None


def _check_unlike(session: Session, project_id: str, order: SweepSpec, place: str) -> None:
    """Two references may point at the same version today."""
    ends = order.space[place].ends()
    pinned = [_pinned(session, project_id, value) for value in ends.values()]
    for number, end in enumerate(ends):
        if pinned[number] in pinned[:number]:
            given, found = (shown(json.dumps(value)) for value in (ends[end], pinned[number]))
            detail = f"{given} means the same as another value: both are {found}"
            fault = Fault(f"{pointer('space', place)}/{end}", "twice", detail, "leave one of them out")
            raise InvalidSpec(sentence(detail), fault)


def _ends(order: SweepSpec) -> Iterator[tuple[str, Json]]:
    for place, form in order.space.items():
        for end, value in form.ends().items():
            yield f"{pointer('space', place)}/{end}", {place: value}
        if isinstance(form, FloatRange) and (value := form.inside()) is not None:
            yield pointer("space", place), {place: value}


def _corners(order: SweepSpec) -> Iterator[Json]:
    """All first ends, all last ones, and some in between. One field alone has no corners."""
    if len(order.space) == 1:
        return
    ends = {place: list(form.ends().values()) for place, form in order.space.items()}
    yield {place: values[0] for place, values in ends.items()}
    yield {place: values[-1] for place, values in ends.items()}
    chance = Random(order.seed)  # noqa: S311
    for _ in range(CORNERS):
        yield {place: chance.choice(values) for place, values in ends.items()}


def _try(
    session: Session, settings: Settings, project_id: str, order: SweepSpec, values: Json, at: str
) -> None:
    """Plans the trial with these values; what it says against it is said of `at`."""
    try:
        spec = order.trial("swp", 0, values)
        _check_served(order, spec, "/exports")
        job_plan.resolve(session, settings, project_id, spec)
    except Invalid as error:
        faults = error.faults or (Fault("", error.code, error.detail),)
        sent = spec_at(order.spec, values)
        places = [_in_spec(sent, fault.pointer) for fault in faults]
        deepest = max(
            range(len(places)), key=lambda place: places[place][1]
        )  # the branch that took the value
        worst, where = faults[deepest], places[deepest][0]
        said = ", ".join(f"{place} = {shown(json.dumps(value))}" for place, value in values.items())
        detail = f"with {said} the spec cannot be carried out: {where} {worst.detail}"
        fix = worst.fix or "narrow the range, or take the value out"
        raise type(error)(sentence(detail), Fault(at, worst.code, detail, fix)) from None


def _in_spec(node: Any, place: str) -> tuple[str, int]:
    """The pointer without pydantic's names of a union's branches, and how deep into the spec it leads."""
    parts, kept = parts_of(place), []
    for part in parts:
        key = int(part) if isinstance(node, list) and part.isdigit() else part
        if key in (node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()):
            kept.append(part)
            node = node[key]
    depth = len(kept)
    return pointer(*kept, *(parts[-1:] if kept[-1:] != parts[-1:] else ())), depth
