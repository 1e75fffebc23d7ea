"""Values and gradients of the reference implementations, in float64, and the identities of the papers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from app.catalog.base import Batch, Loss, Outputs
from app.catalog.losses import cross_entropy, dist, dkd, kd, logit_mse
from app.catalog.spec import LOSSES

LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def wave(a: float, b: float) -> Tensor:
    """Numbers that any language can make: (8, 10), row by row."""
    k = torch.arange(80, dtype=torch.float64)
    return (3 * torch.sin(a * k + b) + 1.5 * torch.sin(0.37 * a * k * 1.7 + 2 * b)).reshape(8, 10)


STUDENT, TEACHER = wave(1.3, 0.2), wave(0.9, 0.7)
# where it comes from: losses as (kind, parameters, weight); value; the gradient's norm and first four numbers
REFERENCES: dict[str, tuple[list[tuple[str, dict[str, Any], float]], float, float, list[float]]] = {
    "HobbitLong/RepDistiller b84f547c5db6 distiller_zoo/KD.py, T 1": (
        [("kd", {"temperature": 1.0}, 1.0)], 2.770979309192868, 0.2468399298613642,
        [-0.021789916078086915, 0.030183691354696153, 0.0005239116766808736, -0.00026222505496900243],
    ),
    "HobbitLong/RepDistiller b84f547c5db6 distiller_zoo/KD.py, T 4": (
        [("kd", {"temperature": 4.0}, 1.0)], 4.805483564499525, 0.3436830322996566,
        [-0.027542803171023117, 0.01751396615302163, 0.005167268892021073, -0.0048841077641629],
    ),
    "yoshitomo-matsubara/torchdistill 3e4373c45214 KDLoss, alpha 0.3 of the labels, T 4": (
        [("cross_entropy", {}, 0.3), ("kd", {"temperature": 4.0}, 0.7)],
        4.6025746396660585, 0.2897331312380791,
        [-0.018103107765177973, 0.041708611238858745, 0.00739311724321693, -0.04087129627513621],
    ),
    "airaria/TextBrewer 2c105fa664bb kd_mse_loss, T 1": (
        [("logit_mse", {"center": False}, 1.0)], 11.008077223137983, 0.7418920818804438,
        [-0.0557673037711901, 0.00042260959264137646, -0.007700186801773612, -0.03315913702615455],
    ),
    "megvii-research/mdistiller a08d46f10d61 DKD.py, alpha 1, beta 8, T 4": (
        [("dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}, 1.0)], 39.52192462226769, 2.955594580601578,
        [-0.23834200212741768, 0.13944126127352924, 0.03827843227449012, -0.0048841077641629035],
    ),
    "hunto/DIST_KD 2418f18b1fed dist_kd.py, tau 1, beta 1, gamma 1": (
        [("dist", {}, 1.0)], 1.6573070926766005, 0.09292494957494751,
        [-0.005788656669145954, -0.005439809980870875, -0.0019881976696374476, 0.00022213894691316543],
    ),
    "sunshangquan/logit-standardization-KD f6e5aa5172ba KD.py, T 2": (
        [("kd", {"temperature": 2.0, "standardize": True}, 1.0)], 0.7972777042814295, 0.03790027350459452,
        [-0.005169536884803459, 0.0006438690019670435, -0.001070773100691549, 0.0006819406619374584],
    ),
}  # fmt: skip


def form(kind: str, **parameters: Any) -> Loss:
    return LOSSES[kind].model_validate(parameters)


@pytest.mark.parametrize("name", REFERENCES)
def test_value_and_gradient_are_the_reference_s(name: str) -> None:
    terms, value, norm, head = REFERENCES[name]
    student = STUDENT.clone().requires_grad_()
    batch = Batch(labels=LABELS)
    total: Any = sum(
        weight * form(kind, **said)(Outputs(student), Outputs(TEACHER), batch) for kind, said, weight in terms
    )
    total.backward()
    assert student.grad is not None
    assert total.item() == pytest.approx(value, rel=1e-7)
    assert student.grad.norm().item() == pytest.approx(norm, rel=1e-7)
    assert student.grad.flatten()[:4].tolist() == pytest.approx(head, rel=1e-7)


def test_each_formula_is_also_a_function_of_plain_tensors() -> None:
    batch = Batch(labels=LABELS, mask=torch.arange(8) < 5)
    for module, kind in (
        (kd, "kd"),
        (dkd, "dkd"),
        (dist, "dist"),
        (logit_mse, "logit_mse"),
        (cross_entropy, "cross_entropy"),
    ):
        expected = form(kind)(Outputs(STUDENT), Outputs(TEACHER), batch)
        assert torch.equal(module.value([STUDENT], [TEACHER], batch.mask, labels=LABELS), expected)
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
