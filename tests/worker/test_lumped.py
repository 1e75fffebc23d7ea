"""The tail of many classes as one more outcome: what it keeps of the teacher, and what others lose."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app.catalog.base import Batch, Outputs
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.jsd import JSD
from app.catalog.losses.kd import KD
from tests.worker.classroom import CPU, ONE
from tests.worker.test_answers import teacher
from worker.data import open_rows
from worker.engine.answers import ask, create
from worker.engine.device import Rows
from worker.engine.inputs import Seen
from worker.engine.lumped import Form, Lumped, LumpedRows
from worker.engine.teaching import Heard, Teaching

B, C, K = 16, 20_000, 50


def words(rows: int = B, classes: int = C, seed: int = 0) -> Tensor:
    """A teacher of words: the r-th likeliest is so as 1 / r^1.1, its neighbors a little more or less."""
    chance = torch.Generator().manual_seed(seed)
    ranks = -1.1 * torch.arange(1, classes + 1, dtype=torch.float64).log()
    noise = torch.randn(rows, classes, generator=chance, dtype=torch.float64)
    return (ranks + 0.3 * noise).gather(1, torch.rand(rows, classes, generator=chance).argsort(1))


def gradient(student: Tensor, teacher: Tensor) -> Tensor:
    """Of the mean KL(teacher ; student) at student logits, both (B, C)."""
    return (student.softmax(-1) - teacher.softmax(-1)) / len(student)


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def learned(student: Tensor, lumped: Lumped, loss: KD) -> Tensor:
    """The gradient at the student's logits of a loss that hears what is stored."""
    own = student.clone().requires_grad_()
    ((_, mine, theirs),) = Heard(ONE, lumped, {}, 0).pairs(loss, Outputs(own))
    loss(mine, theirs, Batch()).backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    return own.grad


def test_the_tail_as_one_outcome_is_far_nearer_than_what_leaves_it_out() -> None:
    """At k = 50 of 20,000 words, for a student on its way: 0.06 with the tail, 0.2 without, and 1.0 where the
    kept classes are scaled up to a sum of 1."""
    taught = words()
    noise = torch.randn(B, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    student = 0.7 * taught + 0.5 * noise
    wanted = gradient(student, taught)
    with_tail = off(learned(student, Lumped.of(taught, K), KD(temperature=1.0)), wanted)
    top, classes = taught.softmax(-1).topk(K, -1)
    cut = torch.zeros_like(student).scatter(-1, classes, top)
    q, kept = student.softmax(-1), cut.sum(-1, keepdim=True)
    assert with_tail == pytest.approx(0.06, abs=0.02)
    assert off((q * kept - cut) / B, wanted) == pytest.approx(0.2, abs=0.06)
    assert off((q - cut / kept) / B, wanted) == pytest.approx(1.0, abs=0.2)


def test_with_as_good_as_no_tail_it_is_the_loss_itself() -> None:
    taught, student = words(4, 60), words(4, 60, seed=1)
    taught[:, :10] += 40
    for loss in (KD(temperature=1.0), KD(temperature=1.5)):
        own = student.clone().requires_grad_()
        whole = loss(Outputs(own), Outputs(taught), Batch())
        ((_, mine, theirs),) = Heard(ONE, Lumped.of(taught, 10), {}, 0).pairs(loss, Outputs(student))
        torch.testing.assert_close(loss(mine, theirs, Batch()), whole.detach(), rtol=1e-4, atol=1e-6)


def test_zero_where_the_student_says_the_same_at_temperature_one() -> None:
    taught = words(4, 500)
    loss = KD(temperature=1.0)
    ((_, mine, theirs),) = Heard(ONE, Lumped.of(taught, 20), {}, 0).pairs(loss, Outputs(taught))
    assert loss(mine, theirs, Batch()).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_a_tail_that_is_spread_normally_is_softened_right(temperature: float) -> None:
    chance = torch.Generator().manual_seed(0)
    taught = torch.randn(4, 200_000, generator=chance, dtype=torch.float64)
    taught[:, :10] += 20
    softened = Lumped.of(taught, 10).teacher(temperature)[:, -1] / temperature
    exact = (taught[:, 10:] / temperature).logsumexp(-1)
    torch.testing.assert_close(softened, exact, atol=0.02, rtol=0)


def test_of_words_the_parabola_is_nearer_than_an_even_spread() -> None:
    taught, temperature = words(), 2.0
    lumped = Lumped.of(taught, K)
    exact = (taught.scatter(-1, lumped.classes, -math.inf) / temperature).logsumexp(-1)
    even = lumped.rest / temperature + (1 - 1 / temperature) * math.log(lumped.others)
    found = lumped.teacher(temperature)[:, -1] / temperature
    assert (found - exact).abs().mean() < 0.5 * (even - exact).abs().mean()


@pytest.mark.parametrize(("classes", "half"), [(300, False), (300, True), (70_000, False), (70_000, True)])
def test_records_come_back_as_they_were(classes: int, half: bool) -> None:
    form, taught = Form(8, classes, half), words(5, classes).float()
    stored = form.packed(taught)
    assert stored.shape == (5, 8 * ((2 if classes <= 65536 else 4) + (2 if half else 4)) + 8)
    found, expected = form.unpacked(torch.from_numpy(stored)), Lumped.of(taught, 8)
    assert torch.equal(found.classes, expected.classes)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3 if half else 0, atol=0)
    assert torch.equal(found.rest, expected.rest)
    assert torch.equal(found.mean, expected.mean)
    assert found.others == classes - 8
    np.testing.assert_allclose(found.dense().gather(1, found.classes), found.logits)


def test_a_teacher_is_asked_once_and_gathered_in_the_jobs_order(tmp_path: Path) -> None:
    taught, names = words(70, 90).float(), [f"class {place}" for place in range(90)]
    form = Form(6, 90, half=False)
    array = create(tmp_path / "answers.npy", 70, 90, dtype="float32", form=form)
    answer = type("Table", (), {"__call__": lambda _, rows: Outputs(taught[rows])})()
    ask(answer, teacher(labels=names), lambda index: index, array, form=form)
    places = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    rows = LumpedRows(Rows(open_rows(tmp_path / "answers.npy"), CPU), form, places)
    index = torch.tensor([69, 3, 40])
    seen = Seen(Batch(), torch.zeros(3, 1), index)
    heard = Teaching(ONE, rows).hear(seen, 0).answers
    assert isinstance(heard, Lumped)
    torch.testing.assert_close(taught[index].gather(1, places.argsort()[heard.classes]), heard.logits)


def test_labels_are_compared_with_every_class_and_divergences_with_the_tail() -> None:
    taught, student = words(4, 300).float(), words(4, 300, seed=1).float()
    heard, batch = Heard(ONE, Lumped.of(taught, 10), {}, 0), Batch(labels=torch.tensor([0, 299, 5, 7]))
    ((share, mine, _),) = heard.pairs(CrossEntropy(), Outputs(student))
    assert (share, mine.logits is student) == (1.0, True)
    expected = torch.nn.functional.cross_entropy(student, torch.tensor([0, 299, 5, 7]))
    torch.testing.assert_close(CrossEntropy()(mine, Outputs(), batch), expected)
    ((_, mine, theirs),) = heard.pairs(JSD(), Outputs(student.bfloat16()))
    assert mine.logits is not None
    assert theirs.logits is not None
    assert mine.logits.shape == theirs.logits.shape == (4, 11)
    assert mine.logits.dtype == torch.float32


def test_students_that_learn_at_the_same_time_are_heard_whole_beside_the_tail() -> None:
    taught, student, peer = (words(4, 300, seed=seed).float() for seed in range(3))
    heard = Heard(ONE, Lumped.of(taught, 10), {}, 0).beside(peer[:, None])
    first, second = heard.pairs(KD(), Outputs(student))
    assert (first[0], second[0]) == (0.5, 0.5)
    assert torch.equal(second[2].logits, peer)  # type: ignore[arg-type]
    assert second[1].logits is student
