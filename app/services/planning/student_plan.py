"""The part of a plan that is about students: the job's own and all that its scheme trains beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.catalog.base import Architecture, Input
from app.catalog.spec import JobSpec
from app.errors import Fault, Invalid, InvalidSpec, ShapeMismatch, WillNotFit
from app.services.planning.checks import Checks
from app.settings import Settings

OWN = "/student/architecture"


def resolved(spec: JobSpec, teacher: Mapping[str, Any] | None, parameters: int, checks: Checks) -> JobSpec:
    """The spec with every architecture filled in. teacher: the first one's config; None: there is none."""

    def filled(pointer: str, form: Architecture) -> Architecture:
        found = checks.run("student", pointer, _resolved, form, teacher, parameters, pointer)
        return found or form

    student = spec.student.model_copy(update={"architecture": filled(OWN, spec.student.architecture)})
    scheme = spec.scheme.map(lambda place, form: filled(f"/scheme/{place}", form))
    return spec.model_copy(update={"student": student, "scheme": scheme})


def check_students(
    settings: Settings, spec: JobSpec, seen: Input, labels: Sequence[str], checks: Checks
) -> None:
    """spec: resolved. Whether each student takes the input, may be so large, and leaves as ordered."""
    forms = {OWN: spec.student.architecture}

    def note(place: str, form: Architecture) -> Architecture:
        forms[f"/scheme/{place}"] = form
        return form

    spec.scheme.map(note)
    for pointer, form in forms.items():
        checks.run("student", pointer, _check, settings, spec, form, seen, len(labels), pointer)
    checks.demand()
    sizes = [
        form.parameters(seen, len(labels)) for _, form in spec.scheme.students(spec.student.architecture)
    ]
    checks.run("scheme", "/scheme", _check_sizes, spec, sizes)


def _resolved(
    form: Architecture, teacher: Mapping[str, Any] | None, parameters: int, pointer: str
) -> Architecture:
    try:
        return form.resolve(teacher, parameters)
    except Invalid as error:
        moved = [
            Fault(one.pointer.replace(OWN, pointer, 1), one.code, one.detail, one.fix) for one in error.faults
        ]
        raise type(error)(error.detail, *moved) from None


def _check(
    settings: Settings, spec: JobSpec, form: Architecture, seen: Input, classes: int, pointer: str
) -> None:
    if reason := form.accepts(seen):
        raise ShapeMismatch(
            f"The student cannot take the input: {reason}",
            Fault(pointer, "input", reason, "choose another family, or other sizes"),
        )
    parameters = form.parameters(seen, classes)
    if parameters > settings.max_parameters:
        detail = f"the student would have {parameters:,} parameters, {settings.max_parameters:,} are allowed"
        raise WillNotFit(
            detail.capitalize(), Fault(pointer, "will_not_fit", detail, "order a smaller student")
        )
    for place, export in enumerate(spec.exports):
        if export.kind not in form.exports:
            known = ", ".join(sorted(form.exports))
            detail = f"{form.kind} leaves as {known}, not as {export.kind}"
            raise InvalidSpec(
                detail, Fault(f"/exports/{place}/kind", "unsupported", detail, f"choose from {known}")
            )


def _check_sizes(spec: JobSpec, sizes: Sequence[int]) -> None:
    if reason := spec.scheme.misfit(sizes):
        fix = "order them from large to small, or choose another scheme"
        raise InvalidSpec(f"The students do not fit the scheme: {reason}", Fault("", "sizes", reason, fix))
