"""The header of a safetensors file, read by our own code: nothing is loaded, nothing unchecked is trusted."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from app.errors import Fault, InvalidData, UnsafeFormat, shown
from app.intake.json_object import parse_object

MAX_HEADER_BYTES = 4 * 1024**2
MAX_TENSORS = 10_000
MAX_RANK = 8
WIDTH = {  # bytes of one number
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
    "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
}  # fmt: skip
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
BUFFERS = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
)  # what batch norm remembers, not what was learned
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,512}")
_FIX = "Write the file again with save_pretrained or safetensors.torch.save_file."


@dataclass(frozen=True)
class Tensor:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises UnsafeFormat for a broken rule, InvalidData for a file cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise _unsafe(
                path,
                f"its header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} that are allowed",
            )
        if size < 8 + length:
            raise _cut_off(path)
        header = parse_object(file.read(length), f"The header of {path.name!r}")
    _check_metadata(path, header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise _unsafe(
            path, f"it holds {len(header):,} tensors, more than the {MAX_TENSORS:,} that are allowed"
        )
    ranges = [_check_entry(path, name, entry) for name, entry in header.items()]
    _check_cover(path, ranges, size - 8 - length)
    return {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def parameters(tensors: dict[str, Tensor]) -> int:
    """Learned numbers: every floating-point tensor but the running statistics of batch norm."""
    return sum(
        tensor.numbers
        for name, tensor in tensors.items()
        if tensor.dtype in FLOATS and name.rpartition(".")[2] not in BUFFERS
    )


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _unsafe(path, "its __metadata__ is not a table of texts")


def _check_entry(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """The byte range [start, end) of one tensor, once name, dtype, shape and length agree."""
    if not _NAME.fullmatch(name):
        raise _unsafe(
            path, f"the tensor name {shown(name)} has characters other than letters, digits, '_', '.' and '-'"
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _unsafe(
            path, f"the entry of tensor {name!r} does not hold exactly dtype, shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTH:
        raise _unsafe(
            path, f"tensor {name!r} has the dtype {str(dtype)[:20]!r}; allowed are {', '.join(WIDTH)}"
        )
    if not _counts(shape) or len(shape) > MAX_RANK:
        raise _unsafe(path, f"the shape of tensor {name!r} is not a list of at most {MAX_RANK} whole numbers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != prod(shape) * WIDTH[dtype]:
        raise _unsafe(path, f"the bytes of tensor {name!r} are not what its shape and dtype need")
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_cover(path: Path, ranges: list[tuple[int, int]], size: int) -> None:
    """The tensors lie end to end: no byte twice, none left over."""
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            raise _unsafe(path, "its tensors overlap or leave a gap")
        position = end
    if position > size:
        raise _cut_off(path)
    if position < size:
        raise _unsafe(path, f"{size - position} bytes at its end belong to no tensor")


def _unsafe(path: Path, reason: str) -> UnsafeFormat:
    return UnsafeFormat(f"{path.name!r} is refused: {reason}.", Fault("/file", "unsafe_format", reason, _FIX))


def _cut_off(path: Path) -> InvalidData:
    reason = "the file is shorter than its header says"
    return InvalidData(
        f"{path.name!r} is cut off: {reason}. Upload it again.",
        Fault("/file", "invalid_data", reason, "Upload it again."),
    )
