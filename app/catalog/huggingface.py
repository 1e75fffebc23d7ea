"""Students that are classifiers of transformers: what their families have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Architecture, Input

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=131_072)]
Depth = Annotated[int, Field(ge=1, le=200)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
Depths = Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)]

_INSTEAD = {
    "image": "images; choose resnet, convnext or vit",
    "vector": "rows of numbers; choose mlp",
    "text": "texts; choose bert or distilbert",
}
_HEADS = {"image": "AutoModelForImageClassification", "text": "AutoModelForSequenceClassification"}

_HEADED = ("num_attention_heads", "num_heads", "n_heads", "encoder_attention_heads")
_HIDDEN = {  # families that attend in a way which no loss here can look at, by what their modules gave
    "cvt", "data2vec-vision", "dinat", "fnet", "funnel", "hiera", "imagegpt", "levit", "longformer",
    "mobilevit", "modernbert", "perceiver", "xlnet",
}  # fmt: skip


def shows(config: Mapping[str, Any]) -> frozenset[str]:
    """What a loss can look at in a model of this config.json: attention where it speaks of heads."""
    parts = [config, *(one for one in config.values() if isinstance(one, dict))]
    attends = any(isinstance(part.get(name), int | list) for part in parts for name in _HEADED)
    hidden = config.get("model_type") in _HIDDEN
    return frozenset({"logits", "features"} | ({"attentions", "values"} if attends and not hidden else set()))


class Family(Architecture):
    """A family whose fields have the names of its transformers config; `kind` is its model_type."""

    exports: ClassVar[frozenset[str]] = frozenset({"safetensors", "onnx", "onnx_int8"})
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    modality: ClassVar[Literal["image", "text"]]

    def stranger(self, input: Input) -> str:
        """That this is no input for the family at all."""
        return f"{self.kind} reads {self.modality}s and this task gives {_INSTEAD[input.modality]}"

    def config(self, input: Input) -> dict[str, Any]:
        """The fields of the transformers config."""
        raise NotImplementedError

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        return classifier(self.kind, self.config(input), labels, self.modality)

    def load(self, folder: Path) -> "nn.Module":
        return load_classifier(folder)


class ImageFamily(Family):
    """A family that reads images."""

    modality: ClassVar[Literal["image", "text"]] = "image"

    def accepts(self, input: Input) -> str | None:
        return self.misfit(*input.shape[1:]) if input.modality == "image" else self.stranger(input)

    def misfit(self, height: int, width: int) -> str | None:
        """Why an image of this size does not fit, None when it does."""
        raise NotImplementedError

    def config(self, input: Input) -> dict[str, Any]:
        channels, height, width = input.shape
        size = height if height == width else [height, width]
        return self.model_dump(mode="json", exclude={"kind"}) | {"num_channels": channels, "image_size": size}


class TextFamily(Family):
    """A family that reads token ids, and by their padding knows where a text ends."""

    quantization: ClassVar[Literal["static", "dynamic"]] = "dynamic"
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "features", "attentions", "values"})
    modality: ClassVar[Literal["image", "text"]] = "text"

    max_position_embeddings: int = Field(512, ge=8, le=8192, description="most tokens that it can read")

    def accepts(self, input: Input) -> str | None:
        if input.modality != "text":
            return self.stranger(input)
        (tokens,) = input.shape
        if tokens <= self.max_position_embeddings:
            return None
        problem = (
            f"{self.kind} has {self.max_position_embeddings} positions and the task reads {tokens} tokens"
        )
        return f"{problem}; raise max_position_embeddings, or lower task.max_length"

    def config(self, input: Input) -> dict[str, Any]:
        said = self.model_dump(mode="json", exclude={"kind"})
        return said | {"vocab_size": input.vocabulary, "pad_token_id": input.pad}


@dataclass(frozen=True)
class IdsAlone:
    """A forward pre-hook by which a classifier of texts takes one tensor of token ids (B, T).

    Which of them are tokens it tells by `pad`. A call with names, as plain transformers makes it, stays one.
    """

    pad: int

    def __call__(
        self, _model: Any, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        if not given:
            return None
        (ids,) = given
        return (), {"input_ids": ids, "attention_mask": (ids != self.pad).long(), **named}


def reading_ids(model: "nn.Module", pad: int) -> "nn.Module":
    """The same model, called as every student and teacher is; its layers keep their paths."""
    model.register_forward_pre_hook(IdsAlone(pad), with_kwargs=True)
    return model


def classifier(
    model_type: str, config: Mapping[str, Any], labels: Sequence[str], modality: str
) -> "nn.Module":
    """A freshly initialized classifier in float32, by the code of the installed transformers only."""
    import transformers

    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: place for place, name in enumerate(labels)},
    }
    form = transformers.AutoConfig.for_model(model_type, **config, **names)
    model = getattr(transformers, _HEADS[modality]).from_config(form)
    model.config.architectures = [type(model).__name__]
    return reading_ids(model, form.pad_token_id) if modality == "text" else model


def load_classifier(folder: Path) -> "nn.Module":
    """What a student's `save_pretrained` wrote, in eval mode."""
    import transformers

    (name,) = json.loads((folder / "config.json").read_bytes())["architectures"]
    modality = "text" if name.endswith("ForSequenceClassification") else "image"
    model = getattr(transformers, _HEADS[modality]).from_pretrained(folder, local_files_only=True).eval()
    return reading_ids(model, model.config.pad_token_id) if modality == "text" else model


def too_small(kind: str, height: int, width: int, needed: int) -> str | None:
    if min(height, width) >= needed:
        return None
    return (
        f"{kind} with these stages needs images of at least {needed} pixels an edge, not {height} x {width}"
        "; set task.image_size, or use fewer stages"
    )
