"""The smallest real job over HTTP: irises, a forest that answers about them, a student of a few numbers."""

import json
from pathlib import Path
from typing import Any

import httpx

from tests.intake import checkpoints, samples

FLOWER = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


def iris_order(client: httpx.Client, folder: Path, **changes: Any) -> dict[str, Any]:
    """A spec over what is uploaded for it, with its sections changed; the forest is made in `folder`."""
    rows = samples.irises()
    form = {"name": "irises", "label": "species", "splits": json.dumps({"train": 0.7, "test": 0.3})}
    data = _upload(client, "datasets", form, "irises.csv", samples.as_csv(rows))
    names = sorted({str(row["species"]) for row in rows})
    forest = checkpoints.save_sklearn(folder / "forest.onnx", labels=names).read_bytes()
    form = {"name": "forest", "task": "tabular_classification"}
    teacher = _upload(client, "models", form, "forest.onnx", forest)
    return {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": teacher}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [4]}},
        "data": {"train": f"{data}#train", "test": f"{data}#test"},
        **changes,
    }


def _upload(client: httpx.Client, kind: str, form: dict[str, str], name: str, content: bytes) -> str:
    """Its reference."""
    answer = client.post(f"/v1/{kind}", data=form, files={"file": (name, content)})
    assert answer.is_success, answer.text
    return str(answer.json()["reference"])
