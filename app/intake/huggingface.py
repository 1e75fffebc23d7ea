"""A Hugging Face folder of a classifier of images or texts: config, weights' headers, labels, tokenizer.

Nothing of it is executed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.base import Task
from app.catalog.huggingface import shows
from app.errors import Invalid, InvalidData, ShapeMismatch, shown
from app.intake import tokenizer
from app.intake.checkpoint_folder import CONFIG, INDEX, PREPROCESSOR, WEIGHTS
from app.intake.labels import check_count, check_labels, check_target
from app.intake.own_sizes import check_sizes
from app.intake.refusals import refusal
from app.intake.safetensors import Tensor, parameters, read_header

Json = dict[str, Any]

_HEAD = re.compile(
    r"(classifier|head|score|cls_classifier|distillation_classifier)(\.\d+|\.out_proj)?\.(weight|bias)"
)
_ARCHITECTURE = re.compile(
    r"[A-Za-z0-9]{1,80}(ForImageClassification(WithTeacher)?|ForSequenceClassification)"
)
_PLACEHOLDER = "LABEL_{}"
_NAMELESS = (
    "config.json names its classes LABEL_0, LABEL_1, ..., which will hardly match a dataset's labels. "
    "Send `labels`, a JSON list of names in the order of the logits."
)


def inspect(folder: Path, documents: Mapping[str, Json], task: Task, given: list[Any] | None) -> Json:
    """What the registry keeps of the folder, and `warnings`. given: labels to take instead, or None."""
    config = documents[CONFIG]
    family = _family(config)
    if task.kind != task_of(config):
        raise refusal(
            Invalid, f"{task.kind} is not what this model does", "Leave `task` out.", pointer="/task"
        )
    tensors = read_weights(folder, documents.get(INDEX))
    labels = read_labels(config, given)
    _check_head(tensors, len(labels))
    text = task.modality == "text"
    said = tokenizer.inspect(folder, documents, tensors) if text else documents.get(PREPROCESSOR)
    preprocessing = task.imported_preprocessing(config, said, None)
    check_sizes(config, tensors, len(labels))
    return {
        "format": "huggingface",
        "family": family,
        "labels": labels,
        "input": task.input(preprocessing).model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "gives": sorted(shows(config)),
        "details": {
            "config": {key: value for key, value in config.items() if key not in ("id2label", "label2id")},
            "preprocessor": documents.get(PREPROCESSOR),
        },
        "parameters": parameters(tensors),
        "warnings": [_NAMELESS] if labels == _placeholders(len(labels)) else [],
    }


def task_of(config: Mapping[str, Any]) -> str:
    """What a model of transformers does by what its config.json calls it."""
    text = str(config.get("architectures")).endswith("ForSequenceClassification']")
    return "text_classification" if text else "image_classification"


def read_weights(folder: Path, index: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Every tensor, of one file or of all shards that the index lists. Raises InvalidData."""
    files = {path.name: read_header(path) for path in sorted(folder.glob("*.safetensors"))}
    if not any(files.values()):
        raise _invalid("the archive has no weights", "Add model.safetensors, which save_pretrained writes.")
    if index is None:
        if set(files) != {WEIGHTS}:
            fix = f"Add {INDEX}, or save the weights as one model.safetensors."
            raise _invalid(f"there are shards of weights, but no {INDEX}", fix)
        return files[WEIGHTS]
    placed = {name: file for file, tensors in files.items() for name in tensors}
    if index.get("weight_map") != placed or sum(map(len, files.values())) != len(placed):
        fix = "Upload all shards of one save_pretrained, and only these."
        raise _invalid(f"{INDEX} and the tensors in the shards differ", fix)
    return {name: tensor for tensors in files.values() for name, tensor in tensors.items()}


def read_labels(config: Mapping[str, Any], given: list[Any] | None) -> list[str]:
    """The names in the order of the logits: as given, else the config's. Raises Invalid, LabelMismatch."""
    found = _config_labels(config)
    if given is None:
        return check_labels(found, "/file")
    names = check_labels(given, "/labels")
    check_count(names, len(found))
    return names


def read_target(config: Mapping[str, Any], given: list[Any] | None) -> list[str]:
    """The name of a regressor's number: as given, else the config's. Raises Invalid."""
    return check_target(_config_labels(config), "/file") if given is None else check_target(given, "/labels")


def _family(config: Mapping[str, Any]) -> str:
    """The model_type, once the config speaks of one classifier with one label an image or a text."""
    named, family, problem = (config.get(key) for key in ("architectures", "model_type", "problem_type"))
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    if not (isinstance(name, str) and _ARCHITECTURE.fullmatch(name)):
        fix = (
            "Classifiers are supported, as save_pretrained writes them: one ...ForImageClassification or "
            "...ForSequenceClassification."
        )
        raise _invalid(f"config.json names the architectures {shown(named)}", fix, "unsupported_head")
    if not (isinstance(family, str) and re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", family)):
        raise _invalid("config.json has no model_type", "Save the model again with save_pretrained.")
    if problem not in (None, "single_label_classification"):
        fix = "Only single_label_classification is supported."
        raise _invalid(f"config.json says problem_type {shown(problem)}", fix, "unsupported_head")
    return family


def _config_labels(config: Mapping[str, Any]) -> list[Any]:
    """id2label in order. save_pretrained leaves it out for two unnamed classes, its default."""
    named = config.get("id2label")
    if named is None:
        return _placeholders(2)
    if not isinstance(named, dict) or set(named) != {str(index) for index in range(len(named))}:
        fix = "Number the classes 0, 1, 2, ... in the order of the logits."
        raise _invalid("id2label in config.json does not count from 0 without a gap", fix)
    return [named[str(index)] for index in range(len(named))]


def _placeholders(count: int) -> list[str]:
    return [_PLACEHOLDER.format(index) for index in range(count)]


def _check_head(tensors: Mapping[str, Tensor], classes: int) -> None:
    for name, tensor in tensors.items():
        if _HEAD.fullmatch(name) and tensor.shape and tensor.shape[0] != classes:
            fix = f"Give config.json an id2label of {tensor.shape[0]} entries."
            raise refusal(
                ShapeMismatch, f"{name} has {tensor.shape[0]} rows, but there are {classes} labels", fix
            )


def _invalid(detail: str, fix: str, code: str = "") -> InvalidData:
    return refusal(InvalidData, detail, fix, code=code)
