"""State as JSON and safetensors, and files that are whole or not there."""

import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.errors import BlobCorrupt
from app.ports.blobs import Blob, file_blobs
from worker.engine.packing import Tensors, canonical, opened, pack, serialized, store, unpack, write


def state() -> dict[str, Any]:
    return {
        "weights": torch.randn(3, 2),
        "half": torch.randn(5, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(4, 3).T,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
            "param_groups": [{"betas": (0.9, 0.99)}],
        },
        "best": [math.inf, -math.inf, 0.1 + 0.2, None, True, "ü"],
    }


def test_what_is_packed_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    before, tensors = state(), Tensors()
    packed = pack(before, tensors)
    path = tmp_path / "state.safetensors"
    write(path, serialized(tensors))
    assert set(load_file(path)) == set(tensors)
    after = unpack(packed, opened(path))
    again, others = Tensors(), Tensors()
    assert canonical(pack(before, again)) == canonical(pack(after, others))
    for name, tensor in again.items():
        assert (others[name].dtype, others[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(others[name], tensor)
    assert list(after["optimizer"]["state"]) == [0, 1]


def test_numbers_that_json_lacks_come_back() -> None:
    value = unpack(pack([math.nan, math.inf, -math.inf], {}), {})
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf]


def test_what_is_not_plain_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"object at a\.0 "):
        pack({"a": [object()]}, {})


def test_the_same_state_is_the_same_file(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.arange(4.0)}
    first = write(tmp_path / "1", serialized(tensors))
    second = write(tmp_path / "2", serialized(dict(reversed(tensors.items()))))
    assert first == second == Blob(first.sha256, (tmp_path / "1").stat().st_size)


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, really = os.urandom(1000), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, given: really(descriptor, given[:7]))
    assert write(tmp_path / "file", [whole[:500], whole[500:]]).size == 1000
    assert (tmp_path / "file").read_bytes() == whole


def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The system's own limit: the first write that reaches it is short, and only the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="too large"):
            store(file_blobs(tmp_path / "blobs"), tmp_path / "file", [b"x" * 600, b"y" * 600])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.glob("*file*"))
    assert not list((tmp_path / "blobs").glob("sha256/*/*"))


def test_bytes_that_change_between_disk_and_store_are_noticed(tmp_path: Path) -> None:
    blobs = file_blobs(tmp_path / "blobs")
    put_file = blobs.put_file

    def flips(path: Path) -> Blob:
        path.write_bytes(b"X" + path.read_bytes()[1:])
        return put_file(path)

    blobs.put_file = flips  # type: ignore[method-assign]
    with pytest.raises(BlobCorrupt):
        store(blobs, tmp_path / "file", [b"bytes"])


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_file_that_is_no_file_of_tensors_is_damaged(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "file").write_bytes(damage)
    with pytest.raises(BlobCorrupt):
        opened(tmp_path / "file")
