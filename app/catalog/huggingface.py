"""Students that are image classifiers of transformers: what their families have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from app.catalog.base import Architecture, Input

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=131_072)]
Depth = Annotated[int, Field(ge=1, le=200)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
Depths = Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)]


class ImageFamily(Architecture):
    """A family whose fields have the names of its transformers config; `kind` is its model_type."""

    exports: ClassVar[frozenset[str]] = frozenset({"safetensors", "onnx", "onnx_int8"})
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "features"})

    def accepts(self, input: Input) -> str | None:
        if input.modality != "image":
            return f"{self.kind} reads images and this task gives rows of numbers; choose mlp"
        return self.misfit(*input.shape[1:])

    def misfit(self, height: int, width: int) -> str | None:
        """Why an image of this size does not fit, None when it does."""
        raise NotImplementedError

    def config(self, input: Input) -> dict[str, Any]:
        """The fields of the transformers config."""
        channels, height, width = input.shape
        size = height if height == width else [height, width]
        return self.model_dump(mode="json", exclude={"kind"}) | {"num_channels": channels, "image_size": size}

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        return classifier(self.kind, self.config(input), labels)

    def load(self, folder: Path) -> "nn.Module":
        return load_classifier(folder)


def classifier(model_type: str, config: Mapping[str, Any], labels: Sequence[str]) -> "nn.Module":
    """A freshly initialized classifier in float32, by the code of the installed transformers only."""
    from transformers import AutoConfig, AutoModelForImageClassification

    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: place for place, name in enumerate(labels)},
    }
    form = AutoConfig.for_model(model_type, **config, **names)
    model = AutoModelForImageClassification.from_config(form)  # type: ignore[no-untyped-call]
    model.config.architectures = [type(model).__name__]
    return model  # type: ignore[no-any-return]


def load_classifier(folder: Path) -> "nn.Module":
    from transformers import AutoModelForImageClassification

    model: nn.Module = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    return model.eval()


def too_small(kind: str, height: int, width: int, needed: int) -> str | None:
    if min(height, width) >= needed:
        return None
    return (
        f"{kind} with these stages needs images of at least {needed} pixels an edge, not {height} x {width}"
        "; set task.image_size, or use fewer stages"
    )
