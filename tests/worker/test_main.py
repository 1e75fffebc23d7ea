"""What is written of an attempt that fails."""

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
