"""The part of a plan that says where a student's first weights come from, and whether they can."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.base import Architecture
from app.catalog.inheritance import Layers, Misfit, check_families, chosen, config_of
from app.catalog.spec import FromCheckpoint, FromTeacherLayers, JobSpec, PinnedModel
from app.errors import Fault, InvalidSpec, shown
from app.services import models
from app.services.planning.teacher_plan import pin

_FIX = "choose a student that fits, or initialize it at random"


def initialization(
    session: Session, project_id: str, spec: JobSpec, teachers: Sequence[PinnedModel]
) -> PinnedModel | None:
    """The model whose weights the student starts from; None: from nothing. spec: its architecture resolved.

    Raises UnknownReference, InvalidSpec.
    """
    form, architecture = spec.student.initialize, spec.student.architecture
    if isinstance(form, FromCheckpoint):
        version = models.find(session, project_id, form.model)
        places = [[place] for place in range(len(version.labels))]
        found = pin(session, version, places, version.preprocessing)
        _check(found, architecture, "/student/initialize/model")
        return found
    if not isinstance(form, FromTeacherLayers):
        return None
    if not teachers:
        raise _refused(
            "the job has no teacher", "/student/initialize/kind", "name a teacher, or a checkpoint"
        )
    config = _check(teachers[0], architecture, "/student/initialize/kind")
    _check_layers(form.layers, config, architecture)
    return teachers[0]


def _check(model: PinnedModel, architecture: Architecture, pointer: str) -> Mapping[str, Any]:
    """The model's config. Raises InvalidSpec unless its family is the student's."""
    config = model.details.get("config")
    if model.format == "onnx" or not config:
        why = f"{shown(model.reference)} is an ONNX file, whose weights cannot be taken over"
        raise _refused(why, pointer, "import it as a Hugging Face folder, or initialize at random")
    try:
        check_families(config, config_of(architecture))
    except Misfit as error:
        raise _refused(f"{shown(model.reference)} does not fit: {error}", pointer, _FIX) from None
    return dict(config)


def _check_layers(layers: Layers, config: Mapping[str, Any], architecture: Architecture) -> None:
    try:
        chosen(layers, config, config_of(architecture))
    except Misfit as error:
        raise _refused(
            str(error), "/student/initialize/layers", "choose as many as the student has"
        ) from None


def _refused(why: str, pointer: str, fix: str) -> InvalidSpec:
    return InvalidSpec(f"The student cannot start so: {why}", Fault(pointer, "no_initialization", why, fix))
