"""`python -m worker.layers`: lists the layers of a model by its config alone; no weights are loaded.

Reads {format, family, task, details, input, labels} of a model version as JSON from standard input and writes
{"layers": [{path, type, shape, kind, stage}]} or {"error": why} to standard output.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from typing import Any

Json = dict[str, Any]

ROWS, TOKENS = 2, 32  # of the batch that is sent through; a text's layers show as many tokens as it has
MOST_IN_MEMORY = 100_000_000  # learned numbers of a model that only runs when it is really there


def main() -> int:
    with redirect_stdout(sys.stderr):  # what libraries have to say is no answer
        try:
            answer: Json = {"layers": listed(json.load(sys.stdin))}
        except Exception as error:  # noqa: BLE001  (whatever a config makes of transformers is told)
            said = [*str(error).splitlines(), ""]
            answer = {"error": f"{type(error).__name__}: {said[0][:200]}"}
    json.dump(answer, sys.stdout)
    return 0


def listed(version: Json) -> list[Json]:
    """In the order of the module. stage: one of those that `pairs: auto` matches by depth."""
    import torch

    try:
        with torch.device("meta"):
            return _layers(version)
    except (RuntimeError, NotImplementedError, ValueError):
        # Some families look at numbers, of which there are none on this device.
        with torch.device("meta"):
            size = sum(one.numel() for one in _module(version).parameters())
        if size > MOST_IN_MEMORY:
            raise
        return _layers(version)


def _layers(version: Json) -> list[Json]:
    from app.errors import UnknownLayer
    from worker.engine.attention import attends
    from worker.engine.stages import Model, shapes, stages
    from worker.engine.teachers import WhiteBox

    module = _module(version)
    model = Model("model", module, WhiteBox(module), _batch(version["input"]))
    paths = [path for path, _ in module.named_modules() if path]
    seen = shapes(model, paths)
    try:
        staged = set(stages(model))
    except UnknownLayer:
        staged = set()
    return [
        {
            "path": path,
            "type": type(layer).__name__,
            "shape": list(seen[path][1:]),
            "kind": "attention" if attends(layer) else "features",
            "stage": path in staged,
        }
        for path, layer in module.named_modules()
        if path in seen
    ]


def _module(version: Json) -> Any:
    """With weights of no meaning."""
    from app.catalog.base import Input
    from app.catalog.huggingface import classifier
    from app.catalog.spec import ARCHITECTURES

    row, labels, config = (
        Input.model_validate(version["input"]),
        version["labels"],
        version["details"]["config"],
    )
    if version["format"] != "huggingface":
        return ARCHITECTURES[version["family"]].model_validate(config).build(row, labels)
    said = {
        name: value for name, value in config.items() if name not in ("model_type", "dtype", "num_labels")
    }
    return classifier(config["model_type"], said, labels, row.modality)


def _batch(row: Json) -> Any:
    import torch

    if row["modality"] != "text":
        return torch.zeros(ROWS, *row["shape"])
    other = 1 if row.get("pad") == 0 else 0  # a token that counts
    return torch.full((ROWS, min(TOKENS, *row["shape"])), other, dtype=torch.int64)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
