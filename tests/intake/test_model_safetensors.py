"""The headers of weights, read as torch would read them, and hostile ones."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid, InvalidData, UnsafeFormat
from app.intake import safetensors
from app.intake.safetensors import Tensor, parameters, read_header
from tests.intake.checkpoints import save_resnet, tensors_file

FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def test_a_real_file_reads_as_the_library_reads_it(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = save_resnet(tmp_path) / "model.safetensors"
    with safe_open(path, "np") as file:
        expected = {
            name: Tensor(file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
            for name in file.keys()  # noqa: SIM118
        }
    assert read_header(path) == expected


def test_every_dtype_of_the_list_is_read_as_the_library_writes_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dtypes = [
        torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32,
        torch.uint64, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    ]  # fmt: skip
    tensors = {str(dtype): torch.zeros(3, 2, dtype=dtype) for dtype in dtypes}
    save_file(
        {**tensors, "empty": torch.zeros(0, 5), "scalar": torch.tensor(1.0)}, tmp_path / "m", {"format": "pt"}
    )
    header = read_header(tmp_path / "m")
    assert {header[name].shape for name in tensors} == {(3, 2)}
    assert {tensor.dtype for tensor in header.values()} == set(safetensors.WIDTH)
    assert parameters(header) == 4 * 6 + 0 + 1


def test_running_statistics_are_not_parameters() -> None:
    names = (
        "bn.weight",
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
        "running_mean_head.weight",
    )
    assert parameters({name: Tensor("F32", (5,)) for name in names}) == 10


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {**FOUR, "data_offsets": [0, 8]}}, bytes(8)),  # more bytes than the shape needs
        ({"a": {**FOUR, "shape": [2]}}, bytes(4)),
        ({"a": FOUR, "b": FOUR}, bytes(4)),  # the same bytes twice
        ({"a": FOUR, "b": {**FOUR, "data_offsets": [2, 6]}}, bytes(6)),  # an overlap
        ({"a": FOUR, "b": {**FOUR, "data_offsets": [8, 12]}}, bytes(12)),  # a gap
        ({"a": {**FOUR, "data_offsets": [4, 8]}}, bytes(8)),  # a gap at the start
        ({"a": FOUR}, bytes(9)),  # bytes that belong to nothing
        ({}, bytes(1)),
        ({"a": {**FOUR, "data_offsets": [4, 0]}}, bytes(4)),
        ({"a": {**FOUR, "data_offsets": [-4, 0]}}, bytes(4)),
        ({"a": {**FOUR, "data_offsets": [0, 4.0]}}, bytes(4)),
        ({"a": {**FOUR, "data_offsets": [0]}}, bytes(4)),
        ({"a": {**FOUR, "data_offsets": "04"}}, bytes(4)),
        ({"a": {**FOUR, "shape": [-1]}}, bytes(4)),
        ({"a": {**FOUR, "shape": [True]}}, bytes(4)),
        ({"a": {**FOUR, "shape": [2**62, 2**62, 2**62]}}, bytes(4)),
        ({"a": {**FOUR, "shape": [1] * 9}}, bytes(4)),
        ({"a": {**FOUR, "shape": None}}, bytes(4)),
        ({"a": {**FOUR, "dtype": "F8_E4M3"}}, bytes(4)),
        ({"a": {**FOUR, "dtype": "f32"}}, bytes(4)),
        ({"a": {**FOUR, "dtype": ["F32"]}}, bytes(4)),
        ({"a": {**FOUR, "more": 1}}, bytes(4)),
        ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        ({"a": "F32"}, bytes(4)),
        ({"../a": FOUR}, bytes(4)),
        ({"a b": FOUR}, bytes(4)),
        ({"a\n": FOUR}, bytes(4)),
        ({"": FOUR}, bytes(4)),
        ({"ä": FOUR}, bytes(4)),
        ({"a" * 513: FOUR}, bytes(4)),
        ({"a": FOUR, "__metadata__": {"format": 1}}, bytes(4)),
        ({"a": FOUR, "__metadata__": ["pt"]}, bytes(4)),
        ({str(number): {**FOUR, "shape": [0], "data_offsets": [0, 0]} for number in range(10_001)}, b""),
    ],
    ids=range(33),
)
def test_hostile_headers_are_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(UnsafeFormat, match=r"'model\.safetensors' is refused"):
        read_header(written(tmp_path, tensors_file(header, data)))


@pytest.mark.parametrize("length", [2**22 + 1, 2**63, 2**64 - 1])
def test_a_header_that_claims_too_much_is_not_even_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(UnsafeFormat, match="more than the 4,194,304"):
        read_header(written(tmp_path, tensors_file({"a": FOUR}, bytes(4), length=length)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x02\0\0", tensors_file({"a": FOUR}, bytes(3)), tensors_file({"a": FOUR}, bytes(4), length=1000)],
)
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidData, match="cut off"):
        read_header(written(tmp_path, content))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": %s, "a": %s}' % ((b'{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}',) * 2),
        b"[]", b"{", b"\xff\xfe", b"{} x",
        b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', b"",
    ],
    ids=range(7),
)  # fmt: skip
def test_a_header_that_is_no_strict_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        read_header(written(tmp_path, tensors_file(raw, bytes(4))))
