"""Real checkpoints, tiny, and ways to spoil them."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LIMITS = {"max_bytes": 50_000_000, "max_entries": 1000, "max_ratio": 200, "max_pixels": 1000}
LABELS = ["ant", "bee", "cow"]


def options(**changes: Any) -> dict[str, Any]:
    """What the service hands to the child."""
    sent = dict.fromkeys(("task", "labels", "preprocessing", "output", "output_kind"))
    return {**sent, "limits": LIMITS, **changes}


def save_resnet(folder: Path, labels: list[str] = LABELS, **save: Any) -> Path:
    """A ResNet for gray 8x8 images, as save_pretrained writes it, with its image processor."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
        **_names(labels),
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(folder, **save)
    return _with_processor(folder)


def save_vit(folder: Path, labels: list[str] = LABELS) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_channels=1, image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, **_names(labels),
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def save_convnext(folder: Path, labels: list[str] = LABELS) -> Path:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=1, hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, **_names(labels)
    )
    ConvNextForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pack(path: Path, files: Mapping[str, bytes], prefix: str = "") -> Path:
    """A zip of these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def changed(document: bytes, **fields: Any) -> bytes:
    """The JSON with these fields put in; a field of None is written as null."""
    return json.dumps(json.loads(document) | fields).encode()


def tensors_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header: JSON, or bytes as they are. length: what the file claims."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def save_sklearn(path: Path, model: str = "forest", labels: list[Any] = LABELS, **options: Any) -> Path:
    """A scikit-learn classifier of four features as skl2onnx exports it. model: forest, logistic or mlp."""
    import warnings

    import numpy as np
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models: dict[str, Callable[[], Any]] = {
        "forest": lambda: RandomForestClassifier(3, max_depth=3, random_state=0),
        "logistic": LogisticRegression,
        "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((5,), max_iter=5, random_state=0)),
    }
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    classifier = models[model]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from skl2onnx import to_onnx

        classifier.fit(rows, np.resize(np.array(labels), 60))
        zipmap = {"options": {id(classifier): {"zipmap": False}}} | options
        path.write_bytes(to_onnx(classifier, rows[:1], **zipmap).SerializeToString())
    return path


def _names(labels: list[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: place for place, name in enumerate(labels)},
    }


def _with_processor(folder: Path) -> Path:
    """The file that ViTImageProcessor writes for gray 8x8 images."""
    said = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5], "image_std": [0.25],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def pytorch_file() -> bytes:
    """What torch.save writes: a zip with a pickle in it."""
    import torch

    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()
