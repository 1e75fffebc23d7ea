"""The student as its own library reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.catalog.base import Bundle, Export

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Safetensors(Export):
    """Weights as safetensors with config.json and the preprocessing: plain transformers opens the folder."""

    kind: Literal["safetensors"] = "safetensors"

    def write(self, bundle: Bundle, folder: Path) -> list[str]:
        bundle.student.save_pretrained(folder)  # type: ignore[operator]
        sidecars = bundle.task.sidecars(bundle.preprocessing)
        for name, content in sidecars.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        return ["config.json", "model.safetensors", *sidecars, *bundle.write_files(folder)]

    def run(self, bundle: Bundle, folder: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
        import torch

        student = bundle.architecture.load(folder)

        def logits(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
            with torch.inference_mode():
                found: NDArray[np.float32] = student(torch.from_numpy(batch)).logits.numpy()
            return found

        return logits
