"""Whether weights are as many as their config.json asks for, where a family of ours can tell."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.catalog.base import Input
from app.catalog.spec import ARCHITECTURES
from app.errors import InvalidData, ShapeMismatch, shown
from app.intake.refusals import refusal
from app.intake.safetensors import Tensor, parameters

_CLASSIFIERS = {
    "bert": "BertForSequenceClassification",
    "convnext": "ConvNextForImageClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "mobilenet_v2": "MobileNetV2ForImageClassification",
    "resnet": "ResNetForImageClassification",
    "vit": "ViTForImageClassification",
}
_NUMBERS = (
    "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "depth_divisible_by", "min_depth", "num_channels", "vocab_size", "max_position_embeddings",
    "type_vocab_size", "dim", "n_layers", "n_heads", "hidden_dim",
)  # fmt: skip
_LISTS = ("hidden_sizes", "depths")
_UNUSED = (
    "pooler",
    "mask_token",
)  # of the bare image model; a classifier's file may hold them, nothing loads them
_FIX = "Save the model again with save_pretrained, and upload config.json and weights of one and the same."


def check_sizes(config: Mapping[str, Any], tensors: Mapping[str, Tensor], classes: int) -> None:
    """Raises InvalidData for a size that is none, ShapeMismatch for another count than the config asks for.

    A config that says less, or other things, than our family's own form is left to the loader.
    """
    kind = config["model_type"]
    if config["architectures"] != [_CLASSIFIERS.get(kind)]:
        return
    _check_fields(config)
    expected = _expected(kind, config, classes)
    text = "vocab_size" in config
    counted = parameters({name: tensor for name, tensor in tensors.items() if text or not _unused(name)})
    if expected is not None and counted != expected:
        detail = f"the weights hold {counted:,} parameters, but config.json asks for {expected:,}"
        raise refusal(ShapeMismatch, detail, _FIX)


def _check_fields(config: Mapping[str, Any]) -> None:
    for name in (*_NUMBERS, *_LISTS):
        value = config.get(name)
        fits = (
            _is_count(value) if name in _NUMBERS else isinstance(value, list) and all(map(_is_count, value))
        )
        if value is not None and not fits:
            form = "a whole number" if name in _NUMBERS else "a list of whole numbers"
            raise refusal(InvalidData, f"config.json says {name} {shown(value)}, which is not {form}", _FIX)


def _expected(kind: str, config: Mapping[str, Any], classes: int) -> int | None:
    """The closed form's count; None: it does not cover this config."""
    if "vocab_size" in config:
        return _of_text(kind, config, classes)
    family = ARCHITECTURES[kind]
    said = {name: config.get(name) for name in family.model_fields if name != "kind"}
    size = config.get("image_size", 1)  # left out by a family whose count does not depend on it
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape = (config.get("num_channels"), height, width)
    stages = said.get("depths")
    if stages is not None and config.get("num_stages", len(stages)) != len(stages):
        return None
    if kind == "vit" and "image_size" not in config:
        return None
    try:
        form = family.model_validate(said)
        return form.parameters(Input.model_validate({"modality": "image", "shape": shape}), classes)
    except ValidationError:
        return None


def _of_text(kind: str, config: Mapping[str, Any], classes: int) -> int | None:
    said = {name: config.get(name) for name in ARCHITECTURES[kind].model_fields if name != "kind"}
    row = {"modality": "text", "shape": (1,), "vocabulary": config["vocab_size"]}
    if config.get("position_embedding_type", "absolute") != "absolute":
        return None
    try:
        return ARCHITECTURES[kind].model_validate(said).parameters(Input.model_validate(row), classes)
    except ValidationError:
        return None


def _unused(name: str) -> bool:
    return any(part in _UNUSED for part in name.split("."))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
