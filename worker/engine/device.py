"""Where a job computes: the device, its precision, and what fits into its memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import NoSuchDevice

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESIDENT_SHARE = 0.5  # of the device's free memory that stored rows may take; the rest is for activations


@dataclass(frozen=True)
class Device:
    """precision: the type that matrix products are computed in; weights and losses stay float32."""

    on: torch.device
    precision: torch.dtype

    def described(self) -> str:
        name = (
            torch.cuda.get_device_name(self.on)
            if self.on.type == "cuda"
            else f"{torch.get_num_threads()} CPU threads"
        )
        return f"{name}, {str(self.precision).removeprefix('torch.')}"

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.on.type, self.precision)

    def holds(self, size: int) -> bool:
        """Whether that many bytes of rows can lie on the device for the whole job."""
        if self.on.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.on)
        return size <= free * RESIDENT_SHARE


def choose(
    accelerator: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "float32", "bfloat16"],
    threads: int,
) -> Device:
    """The device that was ordered; `auto` takes a GPU, and bfloat16 where the GPU is built for it."""
    torch.set_num_threads(threads)
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise NoSuchDevice(
            'This worker has no CUDA device: order resources.accelerator "auto", or start one that has.'
        )
    kind = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    built_for_bfloat16 = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = precision == "bfloat16" or (precision == "auto" and built_for_bfloat16)
    return Device(torch.device(kind), torch.bfloat16 if half else torch.float32)


class Rows:
    """An array whose rows are gathered by number; it lies on the device where it fits, else it is sent in
    batches."""

    def __init__(self, array: "NDArray[Any]", device: Device) -> None:
        self._device = device.on
        self._tensor = torch.from_numpy(array)
        if device.holds(array.nbytes):
            self._tensor = self._tensor.to(device.on)

    def __len__(self) -> int:
        return len(self._tensor)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._tensor.index_select(0, index.to(self._tensor.device)).to(self._device, non_blocking=True)


def seed_everything(seed: int) -> None:
    """Every source of chance that a student's initialization or dropout draws from."""
    torch.manual_seed(seed)
    np.random.seed(seed)


def state_on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device's memory, or the machine's, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch, on a CPU
