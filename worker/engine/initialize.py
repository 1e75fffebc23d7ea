"""What a student starts with of another model: a teacher's layers, or all that has the same name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from app.catalog.base import Architecture
from app.catalog.inheritance import chosen, config_of, family, source
from app.catalog.spec import FromTeacherLayers, Initialization, PinnedModel
from app.errors import NothingInherited
from worker.engine.device import Device
from worker.engine.teachers import load

if TYPE_CHECKING:
    from app.services.jobs import Json

SHOWN_NAMES = 20  # of tensors that were not copied
CPU = Device(torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class Inherited:
    """tensors: of the student, by its own names, from `model`. skipped: names of its others. parameters: how
    many learned numbers they are, and of how many."""

    model: str
    tensors: Mapping[str, Tensor]
    skipped: list[str]
    parameters: tuple[int, int]

    def into(self, student: nn.Module) -> None:
        """In place, in the student's own precision."""
        student.load_state_dict(self.tensors, strict=False)

    @property
    def told(self) -> str:
        count, (copied, whole) = len(self.tensors), self.parameters
        of = count + len(self.skipped)
        said = f"The student starts with {count} of its {of} tensors from {self.model}"
        said += f": {copied:,} of {whole:,} parameters."
        if not self.skipped:
            return said
        more = f" and {len(self.skipped) - SHOWN_NAMES} more" if len(self.skipped) > SHOWN_NAMES else ""
        return f"{said} New are {', '.join(self.skipped[:SHOWN_NAMES])}{more}."

    @property
    def data(self) -> "Json":
        copied, whole = self.parameters
        return {
            "model": self.model,
            "tensors": len(self.tensors),
            "of_tensors": len(self.tensors) + len(self.skipped),
            "parameters": copied,
            "of_parameters": whole,
            "skipped": self.skipped[:SHOWN_NAMES],
        }


def inherited(
    form: Initialization, model: PinnedModel, folder: Path, student: nn.Module, architecture: Architecture
) -> Inherited:
    """folder: the model's files. student: a fresh one, which stays as it is.

    Raises TeacherLoadFailed, and NothingInherited where no tensor has a counterpart of its shape.
    """
    module = load(model, folder, CPU).module
    assert module is not None  # the plan refuses black boxes
    given = dict(module.state_dict())
    names = {name: name for name in student.state_dict()}
    if isinstance(form, FromTeacherLayers):
        theirs, own = model.details["config"], config_of(architecture)
        layers = chosen(form.layers, theirs, own)
        names = {name: source(name, layers, theirs, own) for name in names}
        if (family(theirs), family(own)) == ("bert", "distilbert"):
            _fold_segments(given)
    wanted = student.state_dict()
    found = {
        name: given[other].clone()
        for name, other in names.items()
        if other in given and given[other].shape == wanted[name].shape
    }
    for name in [one for one in found if one.endswith(".bias")]:  # is worth nothing without its weight
        weight = f"{name.removesuffix('bias')}weight"
        if weight in wanted and weight not in found:
            del found[name]
    learned = {name: tensor.numel() for name, tensor in student.named_parameters()}
    copied = sum(size for name, size in learned.items() if name in found)
    if not copied:
        raise NothingInherited(
            f"Nothing of {model.reference} fits into the student: no tensor has the same name and shape. "
            "Order a student of the same widths, or initialize it at random."
        )
    skipped = [name for name in wanted if name not in found]
    return Inherited(model.reference, found, skipped, (copied, sum(learned.values())))


def _fold_segments(given: dict[str, Tensor]) -> None:
    """DistilBERT has no segments: what BERT adds to each token of the first one goes to the positions."""
    positions = "bert.embeddings.position_embeddings.weight"
    given[positions] = given[positions] + given["bert.embeddings.token_type_embeddings.weight"][0]
