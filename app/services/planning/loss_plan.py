"""Whether each loss gets what it compares: from the task, the teacher that it names, and the student."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.base import LOOKS, Architecture, Loss
from app.catalog.features import FeatureLoss, LayerLoss
from app.catalog.inheritance import config_of
from app.catalog.layer_paths import resolve
from app.catalog.spec import LOSSES, JobSpec
from app.db.tables import ModelVersion
from app.errors import Fault, InvalidSpec, UnknownLayer
from app.services import layers
from app.services.planning.checks import Checks
from app.services.planning.data_plan import Tables
from app.services.planning.signal_plan import lumped


def check_losses(spec: JobSpec, versions: Sequence[ModelVersion], tables: Tables, checks: Checks) -> None:
    """versions: of the teachers, in the spec's order."""
    classes = len(versions[0].labels) if versions else len(tables.labels)
    for place, loss in enumerate(spec.terms()):
        at = f"/losses/{place}"
        checks.run("losses", at, _check_answers, spec, loss)
        checks.run("losses", at, _check_labels, spec, loss, tables)
        checks.run("losses", at, _check_teacher, spec, loss, versions, at)
        checks.run("losses", at, _check_tail, spec, loss, classes)
        checks.run("losses", at, _check_maps, spec, loss)
        checks.run("losses", f"{at}/stage_epochs", _check_stage, spec, loss)
    checks.run("losses", "/losses", _check_after_stages, spec)
    checks.run("losses", "/losses", _check_truth, spec)


def check_layers(session: Session, spec: JobSpec, versions: Sequence[ModelVersion], checks: Checks) -> None:
    """The paths of the teachers' layers, where these were listed; else the job finds out before it trains."""
    for place, loss in enumerate(spec.terms()):
        if not isinstance(loss, LayerLoss) or loss.teacher >= len(versions):
            continue
        listed = layers.known(session, versions[loss.teacher].id)
        there = [one.path for one in listed or []]
        for pointer, side, path in loss.named() if there else []:
            if side:
                checks.run("losses", f"/losses/{place}{pointer}", _check_path, path, there)


def check_students(
    spec: JobSpec, architecture: Architecture, versions: Sequence[ModelVersion], checks: Checks
) -> None:
    """Whether students themselves show what their teachers are asked for. architecture: of the job's own."""
    for place, loss in enumerate(spec.terms()):
        if wanted := loss.needs & LOOKS:
            at = f"/losses/{place}"
            for _, one in spec.scheme.students(architecture):
                checks.run("losses", at, _check_student, loss, wanted, one)
                checks.run("losses", at, _check_heads, loss, wanted, one, versions)
            if len(spec.scheme.hops(architecture)) > 1:
                checks.run("losses", at, _check_chain, spec, loss, architecture, versions)


def _check_answers(spec: JobSpec, loss: Loss) -> None:
    if "logits" in loss.needs and spec.task.answer not in loss.answers:
        fits = [
            name for name, one in LOSSES.items() if spec.task.answer in one.answers and "logits" in one.needs
        ]
        holds = " or ".join(sorted(loss.answers))
        detail = f"{loss.kind} compares answers that are a {holds}"
        detail += f"; {spec.task.kind} answers with a {spec.task.answer}"
        raise _refused("wrong_answers", detail, f"choose one over layers, or one of {', '.join(fits)}")


def _check_labels(spec: JobSpec, loss: Loss, tables: Tables) -> None:
    if missing := sorted(loss.needs - spec.task.gives - LOOKS):
        detail = f"{loss.kind} needs {', '.join(missing)}, which {spec.task.kind} does not have"
        raise _refused("needs_missing", detail, "choose another loss")
    if "labels" in loss.needs and not tables.labeled:
        detail = f"{loss.kind} needs labels, and no training row has one"
        raise _refused("no_labels", detail, "leave it out, or give labeled rows")


def _check_teacher(spec: JobSpec, loss: Loss, versions: Sequence[ModelVersion], at: str) -> None:
    """Of the teacher that the loss names, and of no other."""
    wanted = loss.needs & LOOKS
    if not wanted:
        return
    place = loss.teacher if isinstance(loss, LayerLoss) else 0
    if not versions:
        detail = f"{loss.kind} looks into a teacher's layers, and this job has no teacher"
        raise _refused("no_teacher", detail, "name a teacher, or choose a loss over logits, such as kd")
    if place >= len(versions):
        detail = (
            f"{loss.kind} names the teacher {place}; they are counted from 0 and there are {len(versions)}"
        )
        known = f"one from 0 to {len(versions) - 1}" if len(versions) > 1 else "0"
        raise _refused("no_such_teacher", detail, f"name {known}", f"{at}/teacher")
    version = versions[place]
    if missing := sorted(wanted - set(version.gives)):
        at = f"{at}/teacher" if len(versions) > 1 else at
        told = f"{loss.kind} needs {' and '.join(missing)} of the teacher {spec.teachers[place].model}"
        raise _refused(
            "needs_missing", f"{told}, {_why(version.format, version.family)}", _way_out(version), at
        )


def _check_student(loss: Loss, wanted: frozenset[str], architecture: Architecture) -> None:
    if missing := sorted(wanted - architecture.gives):
        detail = (
            f"{loss.kind} needs {' and '.join(missing)} of the student, and {architecture.kind} shows none"
        )
        fix = "order a student that attends, such as vit, bert or distilbert, or choose a loss over features"
        raise _refused("needs_missing", detail, fix)


def _check_heads(
    loss: Loss, wanted: frozenset[str], architecture: Architecture, versions: Sequence[ModelVersion]
) -> None:
    """Attention is compared head by head."""
    place = getattr(loss, "teacher", 0)
    if "attentions" not in wanted or place >= len(versions):
        return
    mine, theirs = _heads(config_of(architecture)), _heads(versions[place].details.get("config") or {})
    if mine and theirs and mine != theirs:
        detail = f"{loss.kind} compares head by head: the student has {mine} heads and its teacher {theirs}"
        fix = f"give the student {theirs} heads, or use hidden_mse or similarity"
        raise _refused("other_heads", detail, fix)


def _heads(config: Mapping[str, Any]) -> int | None:
    return config.get("num_attention_heads") or config.get("n_heads")


def _check_path(path: str, there: Sequence[str]) -> None:
    try:
        resolve(path, there)
    except UnknownLayer as error:
        fix = "name one that GET /v1/models/{name}/versions/{version}/layers lists"
        raise UnknownLayer(error.detail, Fault("", error.code, error.detail, fix)) from None


def _check_chain(
    spec: JobSpec, loss: Loss, architecture: Architecture, versions: Sequence[ModelVersion]
) -> None:
    """Of hops, each has another teacher: the paths must be there in all of them."""
    named = getattr(loss, "pairs", getattr(loss, "layer", "auto")) != "auto"
    students = [one for _, one in spec.scheme.students(architecture)]
    first = versions[0].family if versions else ""
    families = {"like_teacher" if one.kind == first else one.kind for one in students}
    if getattr(loss, "teacher", 0) or (named and families != {"like_teacher"}):
        detail = f"in {spec.scheme.kind} each student learns from another model"
        detail += f", and {loss.kind} names the layers of one"
        fix = "leave pairs, layer and teacher out: auto holds for each of them"
        raise _refused("other_teachers", detail, fix)


def _check_tail(spec: JobSpec, loss: Loss, classes: int) -> None:
    hears = "logits" in loss.needs and "labels" not in loss.needs
    kept = lumped(spec, classes)
    if not hears or loss.lumps or kept is None:
        return
    fits = ", ".join(name for name, one in LOSSES.items() if one.lumps is True or name == "kd")
    detail = f"{loss.kind} compares every class; of {classes:,} the answers keep {kept} and lump the others"
    raise _refused("lumped_classes", detail, f'set signals.top_k to "all", or choose one of {fits}')


def _check_maps(spec: JobSpec, loss: Loss) -> None:
    if spec.task.modality == "text" and isinstance(loss, FeatureLoss) and loss.maps_only:
        detail = f"{loss.kind} compares maps, and the layers of texts show tokens"
        raise _refused("no_maps", detail, "use a loss that takes tokens, such as hidden_mse or similarity")


def _check_truth(spec: JobSpec) -> None:
    """Students that know only each other agree on anything."""
    if not spec.teachers and not any("labels" in one.needs and one.counts() for one in spec.terms()):
        detail = "without a teacher only labels say what is right, and none of the losses reads them"
        raise _refused("no_truth", detail, f"add {spec.task.own_loss}, or name a teacher")


def _check_stage(spec: JobSpec, loss: Loss) -> None:
    first, epochs = getattr(loss, "stage_epochs", 0), spec.training.epochs
    if first >= epochs and first:
        detail = f"the first stage of {loss.kind} takes {first} epochs and the whole training {epochs}"
        raise _refused("stage_too_long", detail, "raise training.epochs, or shorten the stage")
    if first and not loss.counts():
        detail = f"{loss.kind} has a first stage of its own and no weight in it"
        raise _refused("nothing_left", detail, "give it a weight above 0, or leave stage_epochs out")


def _check_after_stages(spec: JobSpec) -> None:
    terms = spec.terms()
    left = [
        one for one in terms if not (getattr(one, "only_stage", False) and getattr(one, "stage_epochs", 0))
    ]
    if not any(one.counts() for one in left):
        detail = "after its first stage this job has no loss left to train by"
        raise _refused("nothing_left", detail, "add a loss without a stage, such as kd")


def _why(format_: str, family: str) -> str:
    if format_ == "onnx":
        return "which is an ONNX file: a black box that gives logits alone"
    return f"whose family, {family}, has no attention to look at"


def _way_out(version: ModelVersion) -> str:
    if version.format == "onnx":
        return "import its checkpoint folder instead, or choose a loss over logits, such as kd"
    return "name a transformer as teacher, or choose a loss over features, such as attention_transfer"


def _refused(code: str, detail: str, fix: str, pointer: str = "") -> InvalidSpec:
    first = detail.partition(" ")[0]
    told = detail if first in LOSSES else detail[:1].upper() + detail[1:]  # the name of a loss stays as it is
    return InvalidSpec(told, Fault(pointer, code, detail, fix))
