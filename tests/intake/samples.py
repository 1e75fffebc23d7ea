"""Real data in the forms in which people send it."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@cache
def digits(count: int = 60) -> list[tuple[bytes, int]]:
    """Handwritten digits as (PNG, class)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pairs = zip(data.images[:count], data.target[:count], strict=True)
    return [(png(image * 15), int(target)) for image, target in pairs]


@cache
def irises() -> list[dict[str, Any]]:
    from sklearn.datasets import load_iris

    data = load_iris()
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in data.feature_names]
    rows = zip(data.data.tolist(), data.target, strict=True)
    return [
        dict(zip(names, row, strict=True)) | {"species": str(data.target_names[place])} for row, place in rows
    ]


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def as_csv(rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: Sequence[Mapping[str, Any]] | pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows)), buffer, **options
    )
    return buffer.getvalue()


def as_hugging_face(pairs: Sequence[tuple[bytes, int]], names: Sequence[str] = NAMES) -> bytes:
    """As `datasets` writes an Image and a ClassLabel feature."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", HF_IMAGE), ("label", pa.int64())], metadata=metadata)
    rows = [
        {"image": {"bytes": image, "path": f"{number}.png"}, "label": label}
        for number, (image, label) in enumerate(pairs)
    ]
    return as_parquet(pa.Table.from_pylist(rows, schema=schema))


def as_folders(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def digit_folders(pairs: Sequence[tuple[bytes, int]], top: str = "") -> dict[str, bytes]:
    return {f"{top}{NAMES[label]}/{number:04}.png": image for number, (image, label) in enumerate(pairs)}
