"""What a loss over layers does not see: changes of the student that the method's paper leaves free."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from app.catalog.spec import LOSSES
from tests.catalog.golden import wave

CHANNELS = torch.linspace(0.5, 3, 6).double()[None, :, None, None]
ROTATION = torch.linalg.qr(wave("fs")[:, :8])[0]  # (8, 8)
ORDER = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])


def value(kind: str, student: Tensor, teacher: Tensor, **parameters: Any) -> float:
    function = sys.modules[LOSSES[kind].__module__].value
    found: float = function([student], [teacher], **parameters).item()
    return found


def rotated(rows: Tensor) -> Tensor:
    """Each row turned in its first 8 dimensions."""
    return torch.cat([rows[:, :8] @ ROTATION, rows[:, 8:]], 1)


VECTORS: list[tuple[str, dict[str, Any], str, Callable[[Tensor], Tensor]]] = [
    ("pkt", {}, "scale", lambda rows: 7 * rows),
    ("pkt", {}, "rotation", rotated),
    ("rkd", {"angle": 0.0}, "scale", lambda rows: 7 * rows),
    ("rkd", {"angle": 0.0}, "rotation", rotated),
    ("rkd", {"angle": 0.0}, "shift", lambda rows: rows + 3),
    ("rkd", {"distance": 0.0}, "scale", lambda rows: 7 * rows),
    ("rkd", {"distance": 0.0}, "rotation", rotated),
    ("similarity", {}, "scale", lambda rows: 7 * rows),
    ("similarity", {}, "rotation", rotated),
]


@pytest.mark.parametrize(
    ("kind", "parameters", "change"),
    [one[:2] + one[3:] for one in VECTORS],
    ids=[f"{kind} {name} {parameters or ''}" for kind, parameters, name, _ in VECTORS],
)
def test_relations_between_rows_stay(
    kind: str, parameters: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> None:
    student, teacher = wave("fs"), wave("ft")
    expected = value(kind, student, teacher, **parameters)
    assert expected > 1e-3
    assert value(kind, change(student), teacher, **parameters) == pytest.approx(expected, rel=1e-5)
    assert value(kind, student, change(teacher), **parameters) == pytest.approx(expected, rel=1e-5)


MAPS: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    ("attention_transfer", "scale", lambda maps: 7 * maps),
    ("nst", "scale of a channel", lambda maps: maps * CHANNELS),
    ("cwd", "shift of a channel", lambda maps: maps + CHANNELS),
    ("pkd", "scale and shift of a channel", lambda maps: maps * CHANNELS - 2 * CHANNELS),
]


@pytest.mark.parametrize(
    ("kind", "change"), [(kind, change) for kind, _, change in MAPS], ids=[" ".join(one[:2]) for one in MAPS]
)
def test_what_a_map_may_be_changed_by_stays(kind: str, change: Callable[[Tensor], Tensor]) -> None:
    student, teacher = wave("h1"), wave("h2")
    expected = value(kind, student, teacher)
    assert expected > 1e-4
    assert value(kind, change(student), teacher) == pytest.approx(expected, rel=1e-5)
    assert value(kind, student, change(teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["similarity", "pkt", "rkd"])
def test_the_order_of_the_rows_stays(kind: str) -> None:
    student, teacher = wave("fs"), wave("ft")
    expected = value(kind, student, teacher)
    assert value(kind, student[ORDER], teacher[ORDER]) == pytest.approx(expected, rel=1e-9)
    assert value(kind, student[ORDER], teacher) != pytest.approx(expected, rel=1e-3)


def test_the_length_of_a_hidden_state_stays() -> None:
    student, teacher = wave("hs"), wave("ht")
    expected = value("hidden_cosine", student, teacher)
    assert value("hidden_cosine", 7 * student, teacher / 3) == pytest.approx(expected, rel=1e-9)
