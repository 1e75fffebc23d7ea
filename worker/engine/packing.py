"""State as canonical JSON and safetensors, never pickle, and files that are on the disk once they are said to
be."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.errors import BlobCorrupt
from app.failpoints import failpoint
from app.ports.blobs import Blob, Blobs

Tensors = dict[str, Tensor]
Buffer = bytes | memoryview

_ALIGNED = 8  # bytes that the header's length is a multiple of
_TENSOR, _ITEMS, _NUMBER = "$tensor", "$items", "$number"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def canonical(value: Any) -> bytes:
    """The same value is always the same bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode()


def pack(value: Any, tensors: Tensors, path: str = "") -> Any:
    """The value as JSON; what tensors it holds go into `tensors`, named by where they stand in it."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: str(value)}
    if isinstance(value, Mapping):
        packed = {
            key: pack(one, tensors, f"{path}.{key}" if path else str(key)) for key, one in value.items()
        }
        return (
            packed if all(isinstance(key, str) for key in packed) else {_ITEMS: [*map(list, packed.items())]}
        )
    if isinstance(value, list | tuple):
        return [pack(one, tensors, f"{path}.{place}") for place, one in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} at {path} cannot be kept")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed, but that tuples are lists. Tensors are copies. Raises KeyError."""
    if isinstance(packed, list):
        return [unpack(one, tensors) for one in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]].clone()
    if _NUMBER in packed:
        return float(packed[_NUMBER])
    items = packed.get(_ITEMS, packed.items())
    return {key: unpack(one, tensors) for key, one in items}


def serialized(tensors: Mapping[str, Tensor]) -> Iterator[Buffer]:
    """As a safetensors file, one tensor after the other, so that no second copy of all is made."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, start = {}, 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"data_offsets": [start, end], "dtype": _DTYPES[tensor.dtype], "shape": shape}
        start = end
    text = canonical(header)
    text += b" " * (-len(text) % _ALIGNED)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data


def opened(path: Path) -> Tensors:
    """The tensors of a file. Raises BlobCorrupt."""
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise BlobCorrupt("A kept file of tensors cannot be read.") from error


def write(path: Path, chunks: Iterable[Buffer]) -> Blob:
    """All of the bytes, or an error: a full disk takes a part of them without one. Raises OSError."""
    unfinished, digest, size = path.with_name(f".{path.name}.part"), hashlib.sha256(), 0
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        failpoint("checkpoint.before_write")
        for chunk in chunks:
            digest.update(chunk)
            left = memoryview(chunk)
            size += len(left)
            while left:
                left = left[os.write(descriptor, left) :]
        failpoint("checkpoint.after_write")
        os.fsync(descriptor)
        failpoint("checkpoint.after_fsync")
        if (there := os.fstat(descriptor).st_size) != size:
            raise OSError(f"{there} of {size} bytes were written")
        unfinished.rename(path)
        failpoint("checkpoint.after_rename")
    finally:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Blob(digest.hexdigest(), size)


def store(blobs: Blobs, path: Path, chunks: Iterable[Buffer]) -> Blob:
    """Written to the disk first, then to the blobs, each read back. Raises OSError, BlobCorrupt,
    Unavailable."""
    try:
        wanted = write(path, chunks)
        found = blobs.put_file(path)
        failpoint("checkpoint.after_upload")
        if found != wanted or blobs.size(found.sha256) != wanted.size:
            raise BlobCorrupt(f"What was stored as {found.sha256} is not what was written.")
        return found
    finally:
        path.unlink(missing_ok=True)
