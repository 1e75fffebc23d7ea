"""What is known to go wrong with losses that are allowed, with the evidence for it."""

from collections.abc import Sequence
from itertools import pairwise
from math import log10

from app.catalog.base import Architecture, Loss
from app.catalog.spec import JobSpec, PinnedModel
from app.services.planning.checks import Checks

WIDE_GAP = 20  # times the student's parameters
FAR_OFF = 2  # powers of ten that a weight may be away from the usual one
LAST_EPOCH = 10**9  # in which every schedule has come to its end
NORMALIZED_BY_BATCH = frozenset(  # families with batch norm
    {"cvt", "efficientnet", "hgnet_v2", "levit", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2",
     "poolformer", "regnet", "resnet", "swiftformer", "textnet"}
)  # fmt: skip

_GAP = (
    "Mirzadeh et al., 2020: what a student learns degrades when the gap to its teacher is large, and a "
    "network of a size between bridges it; Cho and Hariharan, 2019: larger, more accurate teachers often do "
    "not make better teachers. In RepDistiller's table for CIFAR-100 resnet110 teaches resnet20 no better "
    "than resnet56 does, which is 2 points worse itself: 70.67 and 70.66"
)
_WEIGHTS = (
    "RepDistiller's recipes for CIFAR-100, beside a cross-entropy of weight 1; how large the values of a "
    "loss are differs by orders of magnitude from one to the next"
)


def advise_losses(spec: JobSpec, teachers: Sequence[PinnedModel], parameters: int, checks: Checks) -> None:
    """spec: with every default filled in. parameters: of the student."""
    for place, loss in enumerate(spec.terms()):
        _about_families(spec, loss, f"/losses/{place}", teachers, checks)
        _about_the_weight(spec, loss, f"/losses/{place}/weight", checks)
    _about_the_gap(spec, teachers, parameters, checks)
    _about_parts_of_batches(spec, checks)


def _about_families(
    spec: JobSpec, loss: Loss, pointer: str, teachers: Sequence[PinnedModel], checks: Checks
) -> None:
    """Of the first who learns from one of another family: a student on the way may be it."""
    place = getattr(loss, "teacher", 0)
    if not loss.across_families or place >= len(teachers):
        return
    hops = spec.scheme.hops(spec.student.architecture)
    families = [teachers[place].family, *(family_of(hop[-1][1]) for hop in hops)]
    unlike = next((pair for pair in pairwise(families) if pair[0] != pair[1]), None)
    if unlike is not None:
        theirs, mine = unlike
        detail = f"{loss.kind} between unlike families, {mine} from {theirs}, may leave the student worse off"
        fix = "use kd, similarity or crd, which hold across families, or a student of the teacher's family"
        checks.warn("losses", "unlike_families", pointer, detail, fix, evidence=loss.across_families)


def _about_the_weight(spec: JobSpec, loss: Loss, pointer: str, checks: Checks) -> None:
    """Relative to what stands beside it: only the relation of the weights counts."""
    alone = getattr(loss, "only_stage", False) and getattr(loss, "stage_epochs", 0)
    if loss.usual_weight is None or alone:
        return
    beside = [_weight(one) for one in spec.terms() if "logits" in one.needs]
    whole = max(beside, default=0.0) or 1.0
    weight = _weight(loss) / whole
    if weight <= 0 or abs(log10(weight / loss.usual_weight)) < FAR_OFF:
        return
    heavy = weight > loss.usual_weight
    what = "will drown the other losses" if heavy else "will hardly count"
    detail = f"{loss.kind} with {weight:g} times the weight of the losses over logits {what}"
    fix = f"the usual weight is {loss.usual_weight * whole:g}; the first steps' gradients are told in the job"
    checks.warn("losses", "unusual_weight", pointer, detail, fix, evidence=_WEIGHTS)


def _about_the_gap(spec: JobSpec, teachers: Sequence[PinnedModel], parameters: int, checks: Checks) -> None:
    """Of networks: what a black box counts says little of it. Where it is not the student itself that the
    teachers teach first, something stands in the gap."""
    networks = [one.parameters for one in teachers if one.format != "onnx"]
    matched = [one.kind for one in spec.terms() if one.needs == {"logits"} and one.kind != "dist"]
    architecture = spec.student.architecture
    _, first = spec.scheme.hops(architecture)[0][-1]
    if not networks or not matched or first != architecture:
        return
    times = min(networks) / parameters
    if times >= WIDE_GAP:
        detail = f"the teacher has {times:,.0f} times the student's parameters"
        fix = "consider the scheme teacher_assistant, a larger student, or the loss dist"
        checks.warn("size", "capacity_gap", "/student/architecture", detail, fix, evidence=_GAP)


def _about_parts_of_batches(spec: JobSpec, checks: Checks) -> None:
    size, devices = spec.training.batch_size, spec.resources.devices
    part = min(spec.training.micro_batch_size or size, -(-size // devices))
    if part >= size:
        return
    why = [
        f"{one.kind} compares the rows of a batch with each other"
        for one in spec.terms()
        if one.batch_statistic
    ]
    if family_of(spec.student.architecture) in NORMALIZED_BY_BATCH:
        why.append(f"{spec.student.architecture.kind} normalizes by the batch")
    if why:
        detail = (
            f"gradients added up over parts of {part} rows are not those of the whole batch: {', '.join(why)}"
        )
        fix = "leave micro_batch_size out, or lower batch_size to it"
        at = "/training/micro_batch_size"
        if devices > 1:
            at, fix = "/resources/devices", f"order one device, or raise batch_size to {devices} times this"
        checks.warn("losses", "parts_differ", at, detail, fix)


def family_of(architecture: Architecture) -> str:
    """The model_type, also of one that is like its teacher."""
    config = getattr(architecture, "config_of_teacher", None) or {}
    return str(config.get("model_type", architecture.kind))


def _weight(loss: Loss) -> float:
    """At the end of its schedule."""
    return float(loss.at(LAST_EPOCH).weight)
