"""What is written of an attempt that fails."""

import subprocess
import sys

import pytest
from torch import nn

from app.errors import BlobCorrupt, JobFailure, OutOfMemory, ShapeMismatch, StillhouseError, Unavailable
from tests.worker.workshop import Workshop, digits, order, table
from worker.__main__ import _verdict

X, Y = digits()


@pytest.mark.parametrize(
    ("failure", "blame"),
    [
        (ShapeMismatch("no"), "user"),
        (BlobCorrupt("no"), "platform"),
        (Unavailable("no"), "platform"),
        (OutOfMemory("no"), "capacity"),
        (JobFailure("no"), "platform"),
    ],
)
def test_the_blame_is_ours_for_what_broke_on_our_side(
    workshop: Workshop, expert: nn.Module, failure: StillhouseError, blame: str
) -> None:
    rows = workshop.data(table(X[:20], Y[:20]))
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], rows, spec={}))
    verdict = _verdict(workshop.parts, job.id, job.attempt, failure)
    assert (verdict["blame"], verdict["attempt"], verdict["phase"]) == (blame, job.attempt, None)


def test_a_process_gets_no_more_memory_than_it_may_take() -> None:
    """And says so as where a device is full: the batch is halved."""
    code = """
import torch
from app.settings import Settings
from worker.__main__ import confine
from worker.engine.device import out_of_memory

confine(Settings(max_trainer_bytes=2**30))
torch.empty(100_000_000, dtype=torch.uint8)
try:
    torch.empty(1_000_000_000, dtype=torch.uint8)
except Exception as error:
    print(out_of_memory(error))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"
