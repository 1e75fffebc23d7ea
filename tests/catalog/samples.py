"""What made-up models show, for any loss of the catalog: logits, or two layers of maps, tokens or attention.

A subject is a form of a loss with the kind of layers that it looks at. B rows, C classes, T tokens, D width,
H heads.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Loss, Outputs
from app.catalog.features import FeatureLoss, LayerLoss, RepresentationLoss
from app.catalog.spec import LOSSES

B, C, T, D, H = 6, 5, 4, 6, 2
LABELS = torch.tensor([0, 4, 2, -100, 1, 2])
NUMBERS = torch.tensor([0.5, -1.0, 2.0, float("nan"), 0.0, 3.0])
PAIRS = [("student.0", "teacher.0"), ("student.1", "teacher.1")]
MAPS = {"fsp", "review"}  # kinds that compare images alone
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [{"label_smoothing": 0.2}],
    "kd": [{"standardize": True, "temperature": 2.0}, {"temperature": 1.0}],
    "logit_mse": [{"center": False}],
    "dist": [{"temperature": 3.0}],
    "jsd": [{"beta": 0.9, "normalize": False, "temperature": 2.0}, {"beta": 0.0}, {"beta": 1.0}],
    "skew_kl": [{"alpha": 0.5, "reverse": True}, {"alpha": 0.0}],
    "reverse_kl": [{"temperature": 3.0}],
    "akl": [{"mu": 0.9}],
    "wsld": [{"temperature": 1.0}],
    "tvd": [{"temperature": 3.0}],
    "ranking": [{"interesting": 2, "uninteresting": 2}],
}


@dataclass(frozen=True)
class Subject:
    loss: Loss
    layers: str = ""  # map, tokens or attention; "": the loss looks at logits

    def __str__(self) -> str:
        said = [
            str(value) for name, value in self.loss if name not in ("weight", "pairs", "layer", "teacher")
        ]
        return "-".join([*said, self.layers] if self.layers else said)


def subjects() -> list[Subject]:
    """Every loss of the catalog, its defaults and its variants, over the kinds of layers that it takes."""
    found = []
    for kind, loss in LOSSES.items():
        pairs = {"pairs": PAIRS} if issubclass(loss, FeatureLoss) else {}
        for parameters in ({}, *VARIANTS.get(kind, [])):
            form = loss.model_validate(pairs | parameters)
            found += [Subject(form, layers) for layers in layers_of(loss)]
    return found


def layers_of(loss: type[Loss]) -> list[str]:
    if "attentions" in loss.needs:
        return ["attention"]
    if "features" not in loss.needs:
        return [""]
    return ["map"] if loss.name() in MAPS else ["map", "tokens"]


def sizes(subject: Subject, path: str, rows: int, width: int) -> tuple[int, ...]:
    """Of a layer. The second layer of maps is smaller, as a later stage's."""
    if subject.layers == "map":
        return (rows, width, 4, 4) if path.endswith("0") else (rows, width + 1, 2, 2)
    return (rows, T, width)


def shown(subject: Subject, make: Callable[[Sequence[int]], Tensor], side: int, **size: int) -> Outputs:
    """What a side (0: the student, 1: the teacher) shows; `make` makes a tensor of a shape."""
    loss, rows, width = subject.loss, size.get("rows", B), size.get("width", D)
    paths = [pair[side] for pair in PAIRS] if isinstance(loss, FeatureLoss) else ["auto"]
    if subject.layers == "attention":
        attentions = {path: make((rows, H, T, T)).softmax(-1) for path in paths}
        values = {path: make((rows, H, T, width)) for path in paths if "values" in loss.needs}
        return Outputs(None, {}, attentions, values)
    if subject.layers:
        return Outputs(None, {path: make(sizes(subject, path, rows, width)) for path in paths})
    return Outputs(make((rows, C if "class" in loss.answers else 1)))


def random(seed: int, scale: float = 2.0) -> Callable[[Sequence[int]], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * scale


def student(subject: Subject, seed: int = 0, **size: int) -> Outputs:
    """Narrower than the teacher where the loss can take that."""
    size.setdefault("width", D if is_plain(subject.loss) else D - 2)
    return shown(subject, random(seed), 0, **size)


def teacher(subject: Subject, seed: int = 1, **size: int) -> Outputs:
    return shown(subject, random(seed), 1, **size)


def is_plain(loss: Loss) -> bool:
    """Neither a projector nor a comparison of rows: both sides have the same shape."""
    return not (getattr(loss, "projects", False) or isinstance(loss, RepresentationLoss))


def batch(subject: Subject, rows: int = B, **more: Any) -> Batch:
    labels = LABELS if "class" in subject.loss.answers else NUMBERS
    return Batch(**{"labels": labels[:rows], "indices": torch.arange(rows), **more})


def tensors(outputs: Outputs) -> list[Tensor]:
    parts = (outputs.features, outputs.attentions, outputs.values)
    return [
        *([] if outputs.logits is None else [outputs.logits]),
        *(t for part in parts for t in part.values()),
    ]


def rebuilt(outputs: Outputs, replacement: Sequence[Tensor]) -> Outputs:
    """The same outputs with the tensors that `tensors` lists replaced."""
    new = iter(replacement)
    return outputs.map(lambda _: next(new))


def built(subject: Subject, mine: Outputs, theirs: Outputs) -> Callable[[Outputs, Outputs, Batch], Tensor]:
    """What the engine would train with, its learned parts in float64."""
    made = subject.loss.build(context(mine, theirs))
    return made.double() if isinstance(made, nn.Module) else made


def value(subject: Subject, mine: Outputs, theirs: Outputs, rows: Batch | None = None) -> Tensor:
    """The loss, as it is when it is built and called for the first time."""
    made = copy.deepcopy(built(subject, mine, theirs))
    return made(mine, theirs, rows or batch(subject, len(tensors(mine)[0])))


def unlearned(subject: Subject, mine: Outputs, theirs: Outputs) -> Tensor:
    """The loss without its learned parts: the file's `value`."""
    loss = subject.loss
    if not isinstance(loss, LayerLoss):
        return value(subject, mine, theirs)
    found: Tensor = sys.modules[loss.__module__].value(*loss.sides(mine, theirs))
    return found


def context(mine: Outputs, theirs: Outputs) -> Context:
    return Context(_shapes(mine), _shapes(theirs), 2 * B, [str(label) for label in range(C)], 7)


def _shapes(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    parts = (outputs.values, outputs.attentions, outputs.features)
    return {path: tuple(tensor.shape) for part in parts for path, tensor in part.items()}
