"""Small students with known answers, as a job leaves them: files in the store, a version in the registry."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sqlalchemy.orm import Session
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from app.db.tables import ModelVersion
from app.ports.blobs import Blobs
from app.services.models import Checkpoint, register

PROJECT = "prj_default"
DIGITS = [str(digit) for digit in range(10)]
IMAGES = {"channels": 1, "size": [8, 8], "resize": [8, 8], "mean": [0.5], "std": [0.5]}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "good", "bad"]
PLANTS = ["rose", "tulip"]
TABLE = {
    "features": [
        {"name": "height", "mean": 10.0, "std": 2.0},
        {"name": "color", "kind": "category", "values": ["red", "yellow"]},
    ]
}


def linear_onnx(weight: NDArray[np.float32], shape: Sequence[int], padding: int = 0) -> bytes:
    """logits = flattened input @ weight, with `padding` more numbers that it does not need."""
    inputs = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", *shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])
    weights = [numpy_helper.from_array(weight, "weight")]
    weights.append(numpy_helper.from_array(np.zeros(padding, np.float32), "padding"))
    nodes = [helper.make_node("Flatten", ["inputs"], ["flat"])]
    nodes.append(helper.make_node("MatMul", ["flat", "weight"], ["logits"]))
    graph = helper.make_graph(nodes, "linear", [inputs], [logits], weights)
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def checkpoint(blobs: Blobs, onnx: bytes | None, **changes: Any) -> Checkpoint:
    """A student of digits that a job made; onnx: its exported file, None: it has none."""
    names = [] if onnx is None else [("model.onnx", onnx)]
    stored = [(path, blobs.put([content])) for path, content in [("config.json", b"{}"), *names]]
    facts: dict[str, Any] = {
        "source": "job",
        "format": "huggingface",
        "family": "resnet",
        "task": "image_classification",
        "labels": DIGITS,
        "input": {"modality": "image", "shape": [1, 8, 8]},
        "preprocessing": IMAGES,
        "gives": ["logits"],
        "details": {},
        "parameters": 640,
        "files": [{"path": path, "sha256": blob.sha256, "size": blob.size} for path, blob in stored],
    }
    return Checkpoint(**facts | changes)


def add_digits(
    session: Session, blobs: Blobs, name: str = "digits", *, seed: int = 0, **rest: Any
) -> ModelVersion:
    """A student of images whose answers depend on the seed."""
    content = linear_onnx(weights(seed, 64, 10), (1, 8, 8))
    return register(session, PROJECT, name, checkpoint(blobs, content), **rest)


def add_plants(session: Session, blobs: Blobs, name: str = "plants", **rest: Any) -> ModelVersion:
    """A student of rows that says tulip the likelier, the higher the plant, and rose for a red one."""
    weight = np.array([[-2, 2], [4, 0], [0, 0]], np.float32)
    changes = {
        "task": "tabular_classification",
        "labels": PLANTS,
        "input": {"modality": "vector", "shape": [3]},
        "preprocessing": TABLE,
    }
    return register(session, PROJECT, name, checkpoint(blobs, linear_onnx(weight, (3,)), **changes), **rest)


def bag_of_words(weight: NDArray[np.float32]) -> bytes:
    """logits = the sum of the tokens' rows of `weight`, (vocabulary, classes); 0 is padding."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])
    weight[0] = 0
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1]), "axis")]
    nodes = [helper.make_node("Gather", ["weight", "input_ids"], ["rows"])]
    nodes.append(helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0))
    graph = helper.make_graph(nodes, "words", [ids], [logits], constants)
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def add_reviews(session: Session, blobs: Blobs, name: str = "reviews", **rest: Any) -> ModelVersion:
    """A student of texts that says good for each `good`, and bad for each `bad`."""
    reads = Tokenizer(WordLevel({token: place for place, token in enumerate(TOKENS)}, unk_token=TOKENS[1]))
    reads.pre_tokenizer = Whitespace()
    reads.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer = blobs.put([reads.to_str().encode()])
    weight = np.array([[0, 0], [0, 0], [0, 0], [4, 0], [0, 4]], np.float32)
    changes = {
        "task": "text_classification", "labels": ["good", "bad"],
        "input": {"modality": "text", "shape": [8], "vocabulary": 5, "pad": 0},
        "preprocessing": {
            "column": "review", "tokenizer": tokenizer.sha256, "vocabulary": 5, "pad": 0, "max_length": 8
        },
    }  # fmt: skip
    return register(session, PROJECT, name, checkpoint(blobs, bag_of_words(weight), **changes), **rest)


def weights(seed: int, inputs: int, classes: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((inputs, classes)).astype(np.float32)


def digit(seed: int, format: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """The file of an image of random gray pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def expected_logits(image: bytes, seed: int = 0) -> NDArray[np.float64]:
    """What the student of this seed computes for an 8x8 image, written out."""
    pixels = np.asarray(Image.open(io.BytesIO(image)), np.float64) / 255
    logits: NDArray[np.float64] = ((pixels - 0.5) / 0.5).reshape(-1) @ weights(seed, 64, 10)
    return logits
