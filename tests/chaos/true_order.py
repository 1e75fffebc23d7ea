"""An order for the real worker: irises, a forest that knows them, a tiny student."""

import json
from typing import Any

import httpx

from tests.chaos.stack import Stack
from tests.intake import checkpoints, samples


def true_order(stack: Stack, **training: Any) -> dict[str, Any]:
    rows = samples.irises()
    names = sorted({str(row["species"]) for row in rows})
    with httpx.Client(base_url=stack.urls[0], timeout=60) as client:
        data = client.post(
            "/v1/datasets",
            data={
                "name": "irises",
                "label": "species",
                "splits": json.dumps({"train": 0.7, "test": 0.3}),
            },
            files={"file": ("iris.csv", samples.as_csv(rows))},
        )
        data.raise_for_status()
        forest = checkpoints.save_sklearn(stack.folder / "forest.onnx", labels=names).read_bytes()
        teacher = client.post(
            "/v1/models",
            data={"name": "forest", "task": "tabular_classification"},
            files={"file": ("forest.onnx", forest)},
        )
        teacher.raise_for_status()
    reference = data.json()["reference"]
    return {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": teacher.json()["reference"]}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [4]}},
        "data": {"train": f"{reference}#train", "test": f"{reference}#test"},
        "training": {"epochs": 3, "batch_size": 16} | training,
        "evaluation": {"compare": ["teacher"], "bootstrap": 100},
    }
