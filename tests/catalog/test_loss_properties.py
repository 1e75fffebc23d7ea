"""What holds for every loss over logits. A new one is covered as soon as its file is there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from app.catalog.base import Batch, Loss, Outputs
from app.catalog.spec import LOSSES

OVER_LOGITS = sorted(kind for kind, loss in LOSSES.items() if loss.needs <= {"logits", "labels"})
NOT_ZERO_AT_IDENTITY = {"cross_entropy"}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [{"label_smoothing": 0.2}],
    "kd": [{"standardize": True, "temperature": 2.0}, {"temperature": 1.0}],
    "logit_mse": [{"center": False}],
    "dist": [{"temperature": 3.0}],
}
FORMS = [
    LOSSES[kind].model_validate(parameters)
    for kind in OVER_LOGITS
    for parameters in ({}, *VARIANTS.get(kind, []))
]
B, C = 6, 5
LABELS = torch.tensor([0, 4, 2, -100, 1, 2])

every_loss = pytest.mark.parametrize(
    "loss", FORMS, ids=lambda loss: "-".join(str(value) for _, value in loss if value is not loss.weight)
)


def logits(seed: int, rows: int = B, scale: float = 2.0) -> Tensor:
    return torch.randn(rows, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def value(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor | None = LABELS, **batch: Any
) -> Tensor:
    return loss(Outputs(student), Outputs(teacher), Batch(labels=labels, **batch))


@every_loss
def test_it_is_a_scalar_zero_at_identity_and_never_negative(loss: Loss) -> None:
    for seed in range(5):
        student, teacher = logits(seed), logits(100 + seed)
        assert value(loss, student, teacher).shape == ()
        assert value(loss, student, teacher).item() >= 0
        if loss.kind not in NOT_ZERO_AT_IDENTITY:
            assert value(loss, teacher, teacher).item() == pytest.approx(0, abs=1e-5)
            assert value(loss, student, teacher).item() > 1e-3


@every_loss
def test_its_gradient_is_the_slope_of_its_value(loss: Loss) -> None:
    teacher = logits(1)
    assert torch.autograd.gradcheck(lambda student: value(loss, student, teacher), logits(0).requires_grad_())


@every_loss
def test_no_gradient_reaches_the_teacher(loss: Loss) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    value(loss, student, teacher).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert teacher.grad is None


@every_loss
def test_a_batch_twice_over_is_worth_the_same(loss: Loss) -> None:
    once = value(loss, logits(0), logits(1))
    twice = value(loss, logits(0).repeat(2, 1), logits(1).repeat(2, 1), LABELS.repeat(2))
    assert twice.item() == pytest.approx(once.item(), rel=1e-6)


@every_loss
def test_the_mean_over_halves_is_the_whole_unless_it_says_otherwise(loss: Loss) -> None:
    labels = LABELS.clamp(min=0)
    whole = value(loss, logits(0), logits(1), labels)
    halves = [
        value(loss, logits(0)[part], logits(1)[part], labels[part]) for part in (slice(0, 3), slice(3, 6))
    ]
    same = sum(half.item() for half in halves) / 2 == pytest.approx(whole.item(), rel=1e-9)
    assert same is not loss.batch_statistic


@every_loss
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30, -3.0])
def test_what_is_masked_does_not_count(loss: Loss, garbage: float) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    student, teacher, labels = logits(0), logits(1), LABELS.clone()
    clean = value(loss, student[mask], teacher[mask], labels[mask])
    student[~mask], teacher[~mask], labels[~mask] = garbage, garbage, 10**6
    student.requires_grad_()
    dirty = value(loss, student, teacher, labels, mask=mask)
    dirty.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(dirty, clean)
    assert student.grad is not None
    assert not student.grad[~mask].any()
    tokens = value(
        loss, student.view(2, 3, C), teacher.view(2, 3, C), labels.view(2, 3), mask=mask.view(2, 3)
    )
    assert torch.equal(tokens, clean)


def hard_cases(rows: int) -> dict[str, Tensor]:
    signs = torch.where(torch.arange(rows * C).view(rows, C) % 3 == 0, 1.0, -1.0)
    return {
        "random": logits(3, rows).float(),
        "saturated": 200 * signs,
        "saturated the other way": -200 * signs,
        "constant": torch.full((rows, C), 7.0),
        "zero": torch.zeros(rows, C),
    }


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_it_stays_finite_at_the_edges(loss: Loss, dtype: torch.dtype, rows: int) -> None:
    for name, student in hard_cases(rows).items():
        for other, teacher in hard_cases(rows).items():
            tracked = student.to(dtype).requires_grad_()
            found = value(loss, tracked, teacher.to(dtype), LABELS[:rows])
            found.backward()  # type: ignore[no-untyped-call]
            assert found.dtype == torch.float32, "losses are never summed in half"
            assert found.isfinite(), (name, other)
            assert tracked.grad is not None
            sound = tracked.grad.isfinite()
            if dtype is torch.float16:  # a constant row's slope may lie beyond its range
                sound = ~tracked.grad.isnan()
            assert sound.all(), (name, other)
            assert found.item() >= -1e-6, (name, other)


@every_loss
def test_what_it_needs_is_all_it_reads(loss: Loss) -> None:
    labels = LABELS if "labels" in loss.needs else None
    assert value(loss, logits(0), logits(1), labels).isfinite()
    assert loss.taps() == ([], [])
