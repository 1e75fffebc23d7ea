"""Values and gradients of the reference implementations, in float64, and the identities of the papers."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from app.catalog.base import Batch, Loss, Outputs
from app.catalog.losses import dist, kd, margin_mse, ranking
from app.catalog.spec import LOSSES
from tests.catalog.golden import CASES, LABELS, Golden, difference, wave

STUDENT, TEACHER = wave("zs"), wave("zt")


def form(kind: str, **parameters: Any) -> Loss:
    return LOSSES[kind].model_validate(parameters)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_and_gradient_are_the_reference_s(case: Golden) -> None:
    assert difference(case) <= case.rel


def test_each_formula_is_also_a_function_of_plain_tensors() -> None:
    batch = Batch(labels=LABELS, mask=torch.arange(8) < 5)
    over_classes = [
        kind
        for kind, loss in LOSSES.items()
        if loss.needs <= {"logits", "labels"} and "class" in loss.answers
    ]
    for kind in over_classes:
        value = sys.modules[LOSSES[kind].__module__].value
        expected = form(kind)(Outputs(STUDENT), Outputs(TEACHER), batch)
        assert torch.equal(value([STUDENT], [TEACHER], batch.mask, labels=LABELS), expected)
    assert kd.value([STUDENT], [TEACHER], temperature=1.0).item() == pytest.approx(
        2.770979309192868, rel=1e-7
    )


def test_kd_is_tckd_plus_the_share_of_the_others_times_nckd() -> None:
    p_y = (TEACHER / 4).softmax(-1).gather(-1, LABELS[:, None]).squeeze(-1)
    for row in range(8):
        one = (Outputs(STUDENT[row, None]), Outputs(TEACHER[row, None]), Batch(labels=LABELS[row, None]))
        target, others = form("dkd", alpha=1, beta=0)(*one), form("dkd", alpha=0, beta=1)(*one)
        assert (target + (1 - p_y[row]) * others).item() == pytest.approx(form("kd")(*one).item(), rel=1e-12)


def test_dkd_takes_the_teacher_s_choice_where_there_is_no_label() -> None:
    unlabeled = LABELS.clone()
    unlabeled[::2] = -100
    filled = torch.where(unlabeled == -100, TEACHER.argmax(-1), unlabeled)
    results = [
        form("dkd")(Outputs(STUDENT), Outputs(TEACHER), Batch(labels=labels))
        for labels in (unlabeled, filled)
    ]
    assert torch.equal(*results)
    alone = form("dkd")(Outputs(STUDENT), Outputs(TEACHER), Batch())
    assert torch.equal(
        alone, form("dkd")(Outputs(STUDENT), Outputs(TEACHER), Batch(labels=TEACHER.argmax(-1)))
    )


def test_at_high_temperature_kd_pulls_the_way_of_the_centered_logit_mse() -> None:
    gradients = []
    for loss in (form("kd", temperature=1e6), form("logit_mse")):
        student = STUDENT.clone().requires_grad_()
        loss(Outputs(student), Outputs(TEACHER), Batch()).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        gradients.append(student.grad)
    soft, straight = gradients
    torch.testing.assert_close(soft, straight / 2, rtol=1e-4, atol=1e-8)


def test_pearson_knows_no_scale_or_shift_of_a_row() -> None:
    scale, shift = torch.linspace(0.5, 3, 8).double()[:, None], torch.linspace(-4, 4, 8).double()[:, None]
    torch.testing.assert_close(dist.pearson(STUDENT * scale + shift, TEACHER), dist.pearson(STUDENT, TEACHER))
    torch.testing.assert_close(dist.pearson(-STUDENT, STUDENT), -torch.ones(8).double())
    assert torch.equal(dist.pearson(torch.ones(1, 4), torch.rand(1, 4)), torch.zeros(1))


def test_standardize_knows_no_scale_or_shift_of_a_row() -> None:
    loss, scale = form("kd", standardize=True, temperature=2), torch.linspace(0.5, 3, 8).double()[:, None]
    moved = loss(Outputs(STUDENT * scale - 7), Outputs(TEACHER * 5 + scale), Batch())
    assert moved.item() == pytest.approx(loss(Outputs(STUDENT), Outputs(TEACHER), Batch()).item(), rel=1e-6)


def test_the_centered_logit_mse_knows_no_shift_of_a_row() -> None:
    moved = form("logit_mse")(Outputs(STUDENT + 3), Outputs(TEACHER - LABELS[:, None]), Batch())
    assert moved.item() == pytest.approx(
        form("logit_mse")(Outputs(STUDENT), Outputs(TEACHER), Batch()).item(), rel=1e-12
    )
    assert form("logit_mse", center=False)(
        Outputs(STUDENT + 3), Outputs(STUDENT), Batch()
    ).item() == pytest.approx(9)


def both(kind: str, student: Tensor = STUDENT, **parameters: Any) -> float:
    return form(kind, **parameters)(Outputs(student), Outputs(TEACHER), Batch()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_jsd_goes_over_into_both_kl_without_a_jump(dtype: torch.dtype) -> None:
    student = STUDENT.to(dtype)
    rel = 1e-6 if dtype is torch.float32 else 1e-9
    for ends, kl in (((0.0, 1e-12), "kd"), ((1.0, 1 - 1e-12), "reverse_kl")):
        expected = both(kl, student, temperature=2.0)
        for beta in ends:
            assert both("jsd", student, beta=beta, temperature=2.0) == pytest.approx(expected, rel=rel)
        toward = [both("jsd", student, beta=abs(ends[0] - step)) for step in (1e-1, 1e-2, 1e-3, 1e-5, 1e-7)]
        gaps = [abs(value - both(kl, student, temperature=1.0)) for value in toward]
        assert gaps == sorted(gaps, reverse=True)
    for beta in (0.0, 1.0):
        assert both("jsd", beta=beta, normalize=False) == 0
        assert not form("jsd", beta=beta, normalize=False).counts()
        assert form("jsd", beta=beta).counts()
    plain, normalized = both("jsd", beta=0.3, normalize=False), both("jsd", beta=0.3)
    assert plain == pytest.approx(normalized * 0.3 * 0.7, rel=1e-12)


def test_the_divergences_keep_their_bounds() -> None:
    far = 200 * torch.eye(10, dtype=torch.float64)[:8]
    for scale in (0.1, 1.0, 10.0):
        student = STUDENT * scale
        assert both("tvd", student) <= math.sqrt(both("kd", student, temperature=1.0) / 2)
        assert both("jsd", student, normalize=False) <= math.log(2)
        assert both("skew_kl", student, alpha=0.1) <= -math.log(0.1)
    apart = (Outputs(far), Outputs(far.roll(1, 1)), Batch())
    assert form("tvd")(*apart).item() == pytest.approx(1)
    assert form("jsd", normalize=False)(*apart).item() == pytest.approx(math.log(2))
    assert form("skew_kl", alpha=0.1)(*apart).item() == pytest.approx(-math.log(0.1))
    assert both("skew_kl", alpha=0.0) == pytest.approx(both("kd", temperature=1.0), rel=1e-12)


def test_the_square_of_the_temperature_multiplies_every_divergence_but_tvd() -> None:
    for kind in ("jsd", "reverse_kl", "skew_kl", "akl", "score_kl", "tvd"):
        factor = 1.0 if kind == "tvd" else 9.0
        softened = form(kind)(Outputs(STUDENT / 3), Outputs(TEACHER / 3), Batch()).item()
        assert both(kind, temperature=3.0) == pytest.approx(factor * softened, rel=1e-12)


def lumped(logits: Tensor, order: Tensor, temperature: float) -> Tensor:
    """The first four classes in this order, and all others as one that has their softened probability."""
    ordered = logits.gather(-1, order) / temperature
    return temperature * torch.cat([ordered[:, :4], ordered[:, 4:].logsumexp(-1, keepdim=True)], -1)


@pytest.mark.parametrize(
    "loss",
    [form(kind, temperature=2.0) for kind in LOSSES if form(kind).lumps],
    ids=lambda loss: loss.kind,
)
def test_what_lumps_loses_by_it_only_what_the_lumped_classes_differ_in(loss: Loss) -> None:
    order = TEACHER.argsort(-1, descending=True)
    whole = loss(Outputs(STUDENT), Outputs(TEACHER), Batch()).item()
    student, teacher = (lumped(one, order, 2.0) for one in (STUDENT, TEACHER))
    assert 0 < loss(Outputs(student), Outputs(teacher), Batch()).item() < whole
    alike = STUDENT.scatter(-1, order[:, 4:], TEACHER.gather(-1, order[:, 4:]) - 1)
    expected = loss(Outputs(alike), Outputs(TEACHER), Batch()).item()
    found = loss(Outputs(lumped(alike, order, 2.0)), Outputs(teacher), Batch()).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_standardized_logits_cannot_be_lumped() -> None:
    assert form("kd").lumps
    assert not form("kd", standardize=True).lumps


def test_akl_weighs_the_forward_kl_by_the_head_s_share_of_the_gap() -> None:
    p, q = torch.tensor([[[0.4, 0.3, 0.2, 0.1]], [[0.1, 0.5, 0.25, 0.15]]], dtype=torch.float64)
    kl, reverse = (p * (p / q).log()).sum().item(), (q * (q / p).log()).sum().item()
    for mu, head in ((0.0, 0.3), (0.5, 0.3), (0.75, 0.5), (1.0, 0.6)):
        share = head / 0.6  # of |p - q| = 0.3, 0.2, 0.05, 0.05
        expected = share * kl + (1 - share) * reverse
        found = form("akl", mu=mu)(Outputs(q.log()), Outputs(p.log()), Batch()).item()
        assert found == pytest.approx(expected, rel=1e-9)


def test_wsld_weighs_a_row_by_what_the_student_has_still_to_learn() -> None:
    sure, open_ = [30.0, 0.0, 0.0], [1.0, 0.0, 0.0]
    label = Batch(labels=torch.tensor([0]))

    def weight(student: list[float], teacher: list[float]) -> float:
        zs, zt = torch.tensor([student]).double(), torch.tensor([teacher]).double()
        ce = -((zt / 2).softmax(-1) * (zs / 2).log_softmax(-1)).sum()
        return (form("wsld")(Outputs(zs), Outputs(zt), label) / (4 * ce)).item()

    assert weight(open_, open_) == pytest.approx(1 - math.exp(-1), rel=1e-6)
    assert weight(sure, open_) == pytest.approx(0, abs=1e-9)
    assert weight(open_, sure) == pytest.approx(1)


def test_margin_mse_sees_margins_alone() -> None:
    moved = form("margin_mse")(Outputs(STUDENT + LABELS[:, None]), Outputs(TEACHER), Batch()).item()
    assert moved == pytest.approx(both("margin_mse"), rel=1e-12)
    by_hand = [torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[5.0, 4.0, 1.0]])]
    assert margin_mse.value(by_hand[:1], by_hand[1:]).item() == pytest.approx(
        ((2 - 1) ** 2 + (3 - 4) ** 2) / 2
    )
    assert margin_mse.value(list(by_hand[0].unbind(-1)), by_hand[1:]).item() == pytest.approx(1)


def test_ranking_is_the_likelihood_of_the_teachers_order() -> None:
    for interesting, uninteresting in ((3, 7), (10, 40), (1, 9), (4, 0)):
        expected = 0.0
        for row, order in zip(STUDENT, TEACHER.argsort(-1, descending=True), strict=True):
            best, rest = row[order[:interesting]], row[order[interesting : interesting + uninteresting]]
            for k, score in enumerate(best):
                expected -= (score - (best[k:].exp().sum() + rest.exp().sum()).log()).item() / len(STUDENT)
        found = both("ranking", interesting=interesting, uninteresting=uninteresting)
        assert found == pytest.approx(expected, rel=1e-12)
    assert both("ranking", 1e6 * TEACHER) == pytest.approx(0, abs=1e-9)
    table = ranking.value([STUDENT], [TEACHER], interesting=3)
    assert torch.equal(ranking.value(list(STUDENT.unbind(-1)), [TEACHER], interesting=3), table)


def test_ranking_takes_the_rest_evenly_over_the_teachers_ranking() -> None:
    scores = torch.arange(101.0, 0, -1)
    chosen = [1 + place for place in (12, 37, 62, 87)]
    found = ranking.value([scores[None] / 50], [scores[None]], interesting=1, uninteresting=4).item()
    assert found == pytest.approx(-(scores[[0, *chosen]] / 50).log_softmax(0)[0].item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_counts_labeled_rows_alone(smoothing: float) -> None:
    labels = LABELS.clone()
    labels[[0, 3, 7]] = -100
    expected = torch.nn.functional.cross_entropy(STUDENT, labels, label_smoothing=smoothing)
    loss = form("cross_entropy", label_smoothing=smoothing)
    torch.testing.assert_close(loss(Outputs(STUDENT), Outputs(), Batch(labels=labels)), expected)
    student = STUDENT.clone().requires_grad_()
    nothing = loss(Outputs(student), Outputs(), Batch(labels=torch.full((8,), -100)))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_counts_each_label_of_a_mixed_row_by_its_share(smoothing: float) -> None:
    others, share = LABELS.roll(3), torch.linspace(0.5, 1, 8).double()
    labels = LABELS.clone()
    labels[[0, 2]] = others[[2, 5]] = -100
    rows, more = (
        torch.nn.functional.cross_entropy(STUDENT, one, label_smoothing=smoothing, reduction="none")
        for one in (labels, others)
    )
    counted = share[labels != -100].sum() + (1 - share)[others != -100].sum()
    expected = (share * rows + (1 - share) * more).sum() / counted
    loss = form("cross_entropy", label_smoothing=smoothing)
    mixed = Batch(labels=labels, others=others, share=share)
    torch.testing.assert_close(loss(Outputs(STUDENT), Outputs(), mixed), expected)
    nothing = torch.full((8,), -100)
    assert loss(Outputs(STUDENT), Outputs(), Batch(labels=nothing, others=nothing, share=share)).item() == 0
    plain = loss(Outputs(STUDENT), Outputs(), Batch(labels=labels))
    unmixed = Batch(labels=labels, others=others, share=torch.ones(8))
    assert torch.equal(loss(Outputs(STUDENT), Outputs(), unmixed), plain)


def test_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert form("kd", temperature=1)(Outputs(student), Outputs(teacher), Batch()).item() == pytest.approx(
        kl, rel=1e-6
    )
    label = Batch(labels=torch.tensor([0]))
    assert form("cross_entropy")(Outputs(teacher), Outputs(), label).item() == pytest.approx(
        math.log(4 / 3), rel=1e-6
    )


def test_schedules_move_weight_and_temperature() -> None:
    schedule = {"from": 1.0, "to": 5.0, "over_epochs": 4}
    loss = form("kd", weight={"from": 0, "to": 0.9, "over_epochs": 3}, temperature=schedule)
    assert [loss.at(epoch).weight for epoch in range(5)] == pytest.approx([0.0, 0.3, 0.6, 0.9, 0.9])
    value = loss.at(2)(Outputs(STUDENT), Outputs(TEACHER), Batch())
    assert torch.equal(value, form("kd", temperature=3.0)(Outputs(STUDENT), Outputs(TEACHER), Batch()))
    assert loss.model_dump(mode="json")["temperature"] == schedule
    assert LOSSES["kd"].model_validate(loss.model_dump(mode="json")) == loss
    fixed = form("kd")
    assert fixed.at(3) is fixed
