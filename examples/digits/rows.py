"""scikit-learn's 1,797 handwritten digits, real images of 8 x 8 pixels; no two hands hold the same one.

The teacher's owner has 1,000 labeled images. Whoever wants the student has 50 labeled ones to learn from, 50
to choose the best step by, and 337 that nobody labeled and the teacher never saw. 360 are kept for the test.
"""

import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

LABELS = [str(digit) for digit in range(10)]
TEST, TEACHER = 360, 1000
A_CLASS = 5  # labeled images of each digit to learn from, and as many to choose by


@dataclass(frozen=True)
class Digit:
    png: bytes
    label: int


def deal(seed: int = 0) -> dict[str, list[Digit]]:
    """The images by hand: teacher, train, validation, unlabeled, test."""
    bundle = load_digits()
    deck = np.random.default_rng(seed).permutation(len(bundle.target))
    test, deck = deck[:TEST], deck[TEST:]
    train, deck = _few_of_each(deck, bundle.target)
    validation, deck = _few_of_each(deck, bundle.target)
    hands = {
        "teacher": deck[:TEACHER],
        "train": train,
        "validation": validation,
        "unlabeled": deck[TEACHER:],
        "test": test,
    }
    return {
        name: [Digit(_png(bundle.images[row]), int(bundle.target[row])) for row in hand]
        for name, hand in hands.items()
    }


def parquet(digits: list[Digit], labeled: bool) -> bytes:
    """As Hugging Face's datasets library writes images and class labels."""
    features: dict[str, object] = {"image": {"_type": "Image"}}
    columns: dict[str, object] = {"image": [{"bytes": digit.png, "path": None} for digit in digits]}
    schema = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    if labeled:
        features["label"] = {"_type": "ClassLabel", "names": LABELS}
        columns["label"] = [digit.label for digit in digits]
        schema.append(pa.field("label", pa.int64()))
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns, schema=pa.schema(schema, metadata))
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _few_of_each(
    deck: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first few rows of each class, and the deck without them."""
    taken = np.concatenate([deck[target[deck] == digit][:A_CLASS] for digit in range(10)])
    return taken, deck[~np.isin(deck, taken)]


def _png(values: NDArray[np.float64]) -> bytes:
    """values: 0 to 16."""
    file = io.BytesIO()
    Image.fromarray((values * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
