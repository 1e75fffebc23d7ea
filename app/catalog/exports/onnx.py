"""The student as a file for ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog import onnx_file
from app.catalog.base import Bundle, Export

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Onnx(Export):
    """One ONNX file in float32 that runs anywhere without Python; the service answers with it."""

    serves: ClassVar[bool] = True

    kind: Literal["onnx"] = "onnx"

    def write(self, bundle: Bundle, folder: Path) -> list[str]:
        onnx_file.write(bundle, folder / onnx_file.NAME)
        return [onnx_file.NAME, *bundle.write_files(folder)]

    def run(self, bundle: Bundle, folder: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
        return onnx_file.open_file(folder / onnx_file.NAME)
