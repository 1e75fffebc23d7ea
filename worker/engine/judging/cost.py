"""What one answer of a student costs: operations and memory, measured on a real row."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from app.catalog.base import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOW = (
    "of one row on the CPU in float32: FLOPs by torch's counter, which sees matrix products, convolutions "
    "and attention; memory as the weights and buffers and the most that the pass itself had allocated at once"
)


class Cost(Frozen):
    """flops: a multiplication and an addition are two. peak_bytes: weights with the largest moment of the
    pass."""

    flops: int
    peak_bytes: int
    weight_bytes: int
    how: str = HOW


@torch.no_grad()
def cost(student: nn.Module, row: "NDArray[Any]") -> Cost:
    """student: on the CPU, in eval mode. row: normalized, with a batch dimension of 1."""
    inputs = torch.from_numpy(row)
    with FlopCounterMode(display=False) as counter:
        student(inputs)
    held = [*student.parameters(), *student.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in held)
    return Cost(
        flops=counter.get_total_flops(),
        peak_bytes=weights + _most_allocated(student, inputs),
        weight_bytes=weights,
    )


def _most_allocated(student: nn.Module, inputs: torch.Tensor) -> int:
    """Bytes, from what torch's allocator says of every block that it gives out and takes back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        student(inputs)
    results = profiled.profiler.kineto_results if profiled.profiler else None
    told = [] if results is None else results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in told if event.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        now += change
        most = max(most, now)
    return most
