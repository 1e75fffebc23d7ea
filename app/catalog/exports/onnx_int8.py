"""The student in eight bits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.catalog import onnx_file
from app.catalog.base import Bundle, Export

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "model.int8.onnx"
CALIBRATION_BATCH = 32
DENSE, TABLES = ["MatMul", "Gemm"], ["Gather"]  # of a small student of texts, most is the table of tokens


class OnnxInt8(Export):
    """One ONNX file with weights in eight bits: a quarter of the size, mostly faster, slightly less exact.

    Convolutions compute within ranges that real rows showed; dense layers find their ranges as they run.
    """

    serves: ClassVar[bool] = True
    tolerance: ClassVar[float | None] = None

    kind: Literal["onnx_int8"] = "onnx_int8"
    calibration_rows: Annotated[int, Field(ge=1, le=10_000)] = Field(
        512, description="training rows that show the ranges of convolutions"
    )

    def sample_rows(self) -> int:
        return self.calibration_rows

    def write(self, bundle: Bundle, folder: Path) -> list[str]:
        onnx_file.write(bundle, folder / onnx_file.NAME)
        model = _prepared(folder / onnx_file.NAME)
        if bundle.architecture.quantization == "static":
            _quantize_all(
                model, folder / FILE, onnx_file.input_name(bundle), bundle.sample[: self.calibration_rows]
            )
        else:
            _quantize(model, folder / FILE, DENSE + (TABLES if bundle.input.modality == "text" else []))
        return [FILE, *bundle.write_files(folder)]

    def run(self, bundle: Bundle, folder: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
        return onnx_file.open_file(folder / FILE)


def _prepared(path: Path) -> Any:
    """The model as the quantizer wants it: without the shapes of weights that the exporter notes."""
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    add_pre_process_metadata(model)
    return model


def _quantize_all(model: Any, path: Path, name: str, rows: "NDArray[np.float32]") -> None:
    """Weights of seven bits: with eight, processors without VNNI overflow in silence."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(rows), CALIBRATION_BATCH)
            self.batches: Iterator[Any] = (
                {name: rows[start : start + CALIBRATION_BATCH]} for start in starts
            )

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantize_static(
        model,
        path,
        Rows(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


def _quantize(model: Any, path: Path, operators: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        model, path, op_types_to_quantize=operators, weight_type=QuantType.QInt8, reduce_range=True
    )
