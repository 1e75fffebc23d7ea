"""A folder that one of our own families wrote, unknown to transformers: form, weights' headers, labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.base import Architecture, Task, parse
from app.catalog.spec import ARCHITECTURES
from app.errors import ShapeMismatch
from app.intake.checkpoint_folder import CONFIG, INDEX, PREPROCESSING
from app.intake.huggingface import read_labels, read_target, read_weights
from app.intake.refusals import refusal
from app.intake.safetensors import parameters

Json = dict[str, Any]


def family_of(config: Mapping[str, Any]) -> type[Architecture] | None:
    """The family of ours that the config names; None: one of transformers."""
    name = config.get("model_type")
    family = ARCHITECTURES.get(name) if isinstance(name, str) else None
    return family if family and family.format != "huggingface" else None


def task_of(documents: Mapping[str, Json]) -> str:
    """What the student does: one that tells numbers keeps the unit of its target."""
    told = documents.get(PREPROCESSING, {})
    return "tabular_regression" if "target" in told else "tabular_classification"


def inspect(
    family: type[Architecture],
    folder: Path,
    documents: Mapping[str, Json],
    task: Task,
    given: list[Any] | None,
) -> Json:
    """What the registry keeps of the folder, and `warnings`. given: labels to take instead, or None."""
    config = documents[CONFIG]
    said = {name: config[name] for name in family.model_fields if name in config}
    architecture = parse(family, said, "config.json is not valid")
    labels = (read_target if task.answer == "number" else read_labels)(config, given)
    preprocessing = task.imported_preprocessing(config, documents.get(PREPROCESSING), None)
    row = task.input(preprocessing)
    if misfit := architecture.accepts(row):
        raise refusal(
            ShapeMismatch, f"{task.kind} is not what this model does: {misfit}", "Leave `task` out."
        )
    learned = parameters(read_weights(folder, documents.get(INDEX)))
    if learned != architecture.parameters(row, len(labels)):
        fix = "Pack config.json, preprocessing.json and model.safetensors of one student."
        detail = f"config.json and preprocessing.json ask for other weights than these {learned:,} numbers"
        raise refusal(ShapeMismatch, detail, fix)
    return {
        "format": family.format,
        "family": architecture.kind,
        "labels": labels,
        "input": row.model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "gives": sorted(architecture.gives),
        "details": {"config": architecture.model_dump(mode="json")},
        "parameters": learned,
        "warnings": [],
    }
