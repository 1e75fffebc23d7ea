"""The workshop, and a good teacher, which is trained once."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from app.db.tables import Project
from app.settings import Settings
from app.wiring import assemble
from tests.worker.workshop import PROJECT, Workshop, taught


@pytest.fixture(scope="session")
def expert() -> nn.Module:
    """A perceptron with two layers of 64 that knows the digits."""
    torch.set_num_threads(1)  # these tests are too small for more
    return taught((64, 64), steps=150)


@pytest.fixture
def workshop(settings: Settings) -> Iterator[Workshop]:
    parts = assemble(settings)
    with parts.sessions.write() as session:
        if session.get(Project, PROJECT) is None:
            session.add(Project(id=PROJECT, name="default"))
    yield Workshop(parts)
    parts.close()
