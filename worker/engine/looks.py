"""What the losses look at inside a student and its teachers: found, tapped and measured on one real batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from app.catalog.base import Context, Loss
from app.catalog.features import LayerLoss
from app.errors import Fault, UnknownLayer
from worker.engine.features import AUTO, KINDS, Key, Tapped, Taps, shapes
from worker.engine.layer_paths import find, placed
from worker.engine.stages import Model, Pair, paired

if TYPE_CHECKING:
    from worker.engine.inputs import Seen
    from worker.engine.teachers import Live
    from worker.engine.teaching import Teaching

Shapes = dict[Key, tuple[int, ...]]


@dataclass(frozen=True)
class Looks:
    """forms: with every `auto` of pairs decided. contexts: one a form, with the shapes of its own teacher.
    chosen: the pairs that `auto` became, by the place of the form."""

    forms: list[Loss]
    contexts: list[Context]
    chosen: dict[int, list[Pair]]


def look(
    forms: Sequence[Loss],
    tapped: Tapped,
    teaching: "Teaching | None",
    probe: "Seen",
    *,
    rows: int,
    seed: int,
) -> Looks:
    """Taps the student and the teachers at hand. Raises UnknownLayer and ShapeMismatch, which point at
    the loss."""
    looking = {place: form for place, form in enumerate(forms) if isinstance(form, LayerLoss)}
    if teaching is None or not looking:
        return Looks(list(forms), [Context(rows=rows, seed=seed)] * len(forms), {})
    live = {place: _at_hand(place, form, teaching) for place, form in looking.items()}
    modules = {form.teacher: live[place][1] for place, form in looking.items()}
    others = {
        k: Model("teacher", module, teaching.live[k], probe.teachers[k]) for k, module in modules.items()
    }
    decided = paired(forms, Model("student", tapped.module, tapped, probe.student), others)
    for place in looking:
        _tap(place, decided[place], tapped, *live[place])
    own = shapes(tapped, tapped.module, probe.student)
    theirs = {k: shapes(one.ask, one.module, one.inputs) for k, one in others.items()}
    contexts = [
        Context(
            _seen(own, form), _seen(theirs.get(getattr(form, "teacher", 0), {}), form), rows=rows, seed=seed
        )
        for form in decided
    ]
    chosen = {k: getattr(decided[k], "pairs", []) for k, form in looking.items() if decided[k] is not form}
    return Looks(decided, contexts, chosen)


def _at_hand(place: int, form: LayerLoss, teaching: "Teaching") -> "tuple[Live, nn.Module]":
    live = teaching.live.get(form.teacher)
    if live is None or live.module is None:
        why = "is an ONNX file" if live else "is not there"
        detail = f"{form.kind} looks into the teacher {form.teacher}, which {why}"
        fix = "name a teacher whose layers can be seen, counted from 0"
        raise UnknownLayer(detail, Fault(f"/losses/{place}/teacher", "unknown_layer", detail, fix))
    return live, live.module


def _tap(place: int, form: Loss, tapped: Tapped, live: "Live", teacher: nn.Module) -> None:
    """Path by path, so that a wrong one is pointed at."""
    assert isinstance(form, LayerLoss)
    for pointer, side, path in form.named():
        at, module = f"/losses/{place}{pointer}", teacher if side else tapped.module
        placed(at, partial(find, module, path))
        placed(at, partial((live if side else tapped).tap, Taps.of([path], form.needs)))
    if not form.named():
        for one in (tapped, live):
            one.tap(Taps.of([AUTO], form.needs))


def _seen(found: Shapes, form: Loss) -> dict[str, tuple[int, ...]]:
    """The shapes of the kind that the form looks at, by path."""
    wanted = [kind for kind in KINDS if kind in form.needs]
    return {path: shape for kind in reversed(wanted) for (of, path), shape in found.items() if of == kind}
