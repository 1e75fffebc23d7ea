"""Losses over layers with parts of their own: what is learned when, what is drawn, what is remembered."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.catalog._torch import uniform
from app.catalog.base import Outputs
from app.catalog.losses import correlation, factor_transfer, mgd, review, vid
from tests.catalog.layers import built, called, form, pulled, random, shown

S = shown(a=random(4, 3, 8, 8), b=random(4, 5, 4, 4, seed=1))
T = shown(a=random(4, 6, 4, 4, seed=2), b=random(4, 7, 4, 4, seed=3))
PAIRS = [["a", "a"], ["b", "b"]]


def learned(module: nn.Module, loss: Tensor) -> set[str]:
    """The parts that a loss pulls at, by the first word of their names."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = pulled(loss, *parameters)
    return {name.partition(".")[0] for name, grad in zip(names, grads, strict=True) if grad.any()}


def steps(
    module: nn.Module, count: int, student: Outputs = S, teacher: Outputs = T, **batch: Any
) -> list[float]:
    """The losses of so many steps of Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    found = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = called(module, student, teacher, **batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", ["vid", "mgd", "factor_transfer", "review"])
def test_learned_parts_are_drawn_from_the_seed_alone(kind: str) -> None:
    loss = form(kind, pairs=PAIRS)
    stream = torch.random.get_rng_state()
    one, again, other = (built(loss, S, T, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), stream)
    weights = [torch.cat([p.flatten() for p in module.parameters()]) for module in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(called(one, S, T), called(again, S, T))
    assert steps(one, 30)[-1] < called(again, S, T).item()


# ---- variational information


def test_every_variance_begins_as_said_and_is_learned() -> None:
    module = built(form("vid", pairs=PAIRS, initial_variance=2.0), S, T)
    told = [random(4, 6, 4, 4), random(4, 7, 4, 4)]
    means = module.means
    assert isinstance(means, nn.ModuleList)
    for place, one in enumerate(told):
        means[place] = nn.Conv2d(1, 1, 1)
        means[place].forward = lambda _, one=one: one
    torch.testing.assert_close(
        called(module, S, T), vid.value(told, list(T.features.values()), initial_variance=2.0)
    )
    scales = dict(module.named_parameters())
    assert scales["scales.0"].shape == (6,)
    assert scales["scales.1"].shape == (7,)


def test_a_channel_that_can_be_told_gets_a_small_variance() -> None:
    s, t = random(64, 3), random(64, 2, seed=1)
    t[:, 0] = s[:, 0]
    module = built(form("vid", pairs=[["a", "a"]], initial_variance=1.0), shown(a=s), shown(a=t))
    steps(module, 400, shown(a=s), shown(a=t))
    told, noise = dict(module.named_parameters())["scales.0"].tolist()
    assert told < noise - 1


def test_vid_by_hand() -> None:
    s, t = torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 3.0)
    expected = 0.5 * (9 / 5 + torch.tensor(5.0).log().item())
    assert vid.value([s], [t]).item() == pytest.approx(expected)
    variances = [torch.tensor([9.0])]
    assert vid.value([s], [t], variances=variances).item() == pytest.approx(
        0.5 * (1 + torch.tensor(9.0).log().item())
    )


# ---- correlation congruence


def test_correlation_by_hand() -> None:
    s, t = torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]]), torch.zeros(3, 2)
    assert correlation.value([s], [t]).item() == pytest.approx((0 + 6 + 0 + 3) / 2)
    assert correlation.value([s[:1]], [t[:1]]).item() == 0


def test_both_embeddings_are_learned_and_begin_alike() -> None:
    s, t = shown(auto=random(5, 4)), shown(auto=random(5, 6, seed=1))
    module = built(form("correlation", embed=3), s, t)
    assert {name: tuple(one.shape) for name, one in module.named_parameters()} == {
        "student.weight": (3, 4),
        "student.bias": (3,),
        "teacher.weight": (3, 6),
        "teacher.bias": (3,),
    }
    assert learned(module, called(module, s, t)) == {"student", "teacher"}
    assert called(built(form("correlation"), s, s), s, s).item() == 0


# ---- masked generation


def hidden(module: nn.Module, **batch: Any) -> Tensor:
    """(B, h, w): where the first generator sees nothing."""
    seen: list[Tensor] = []
    generators = module.generators
    assert isinstance(generators, nn.ModuleList)
    hook = generators[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    called(module, S, T, **batch)
    hook.remove()
    zeros = seen[0] == 0
    assert torch.equal(zeros.any(1), zeros.all(1)), "the same positions in all channels"
    return zeros.all(1)


def test_what_is_hidden_hangs_on_seed_epoch_and_row_alone() -> None:
    module = built(form("mgd", pairs=PAIRS), S, T)
    rows = torch.tensor([7, 3, 9, 4])
    first = hidden(module, indices=rows)
    assert torch.equal(hidden(module, indices=rows), first)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(hidden(module, indices=rows[order]), first[order])
    assert torch.equal(hidden(module, indices=rows, mask=torch.arange(4) > 1), first[2:])
    module.at_epoch(1)  # type: ignore[operator]
    assert not torch.equal(hidden(module, indices=rows), first)
    module.at_epoch(0)  # type: ignore[operator]
    assert torch.equal(hidden(module, indices=rows), first)
    other = built(form("mgd", pairs=PAIRS), S, T, seed=1)
    assert not torch.equal(hidden(other, indices=rows), first)


def test_as_much_is_hidden_as_was_said() -> None:
    module = built(form("mgd", pairs=PAIRS, mask=0.8), S, T)
    shares = [hidden(module, indices=torch.arange(4 * k, 4 * k + 4)).double().mean() for k in range(50)]
    assert torch.stack(shares).mean().item() == pytest.approx(0.8, abs=0.02)
    nothing = built(form("mgd", pairs=PAIRS, mask=0.0), S, T)
    assert not hidden(nothing).any()
    assert learned(nothing, called(nothing, S, T)) == {"projectors", "generators"}


def test_mgd_by_hand() -> None:
    s, t = torch.zeros(2, 1, 1, 2), torch.tensor([1.0, 2.0, 3.0, 4.0]).view(2, 1, 1, 2)
    assert mgd.value([s, s], [t, t], alpha=0.1).item() == pytest.approx(0.1 * 2 * 30 / 2)


def test_drawn_numbers_are_even_and_unrelated() -> None:
    rows, places = torch.arange(200), torch.arange(500)
    drawn = uniform(3, torch.tensor(5), rows[:, None], places)
    assert 0 <= drawn.min() < 0.001
    assert 0.999 < drawn.max() < 1
    counts = torch.histc(drawn, 10, 0, 1)
    assert (counts / drawn.numel() - 0.1).abs().max() < 0.005
    others = [
        uniform(4, torch.tensor(5), rows[:, None], places),
        uniform(3, torch.tensor(6), rows[:, None], places),
    ]
    others += [drawn.roll(1, 0), drawn.roll(1, 1), uniform(3, rows[:, None], torch.tensor(5), places)]
    for other in others:
        both = torch.stack([drawn.flatten(), other.flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 0.015


# ---- factor transfer


def test_the_paraphraser_learns_alone_in_its_stage_and_is_then_fixed() -> None:
    module = built(form("factor_transfer", pairs=PAIRS, stage_epochs=2), S, T)
    s = S.map(lambda one: one.clone().requires_grad_())
    for epoch, parts in (
        (0, {"paraphrasers", "rebuilders"}),
        (1, {"paraphrasers", "rebuilders"}),
        (2, {"translators"}),
    ):
        module.at_epoch(epoch)  # type: ignore[operator]
        loss = called(module, s, T)
        assert learned(module, loss) == parts
        reaches = any(grad.any() for grad in pulled(loss, *s.features.values()))
        assert reaches is (epoch == 2)
    module.at_epoch(0)  # type: ignore[operator]
    found = steps(module, 60)
    assert found[-1] < 0.9 * found[0]


def test_without_a_stage_the_paraphraser_learns_beside_the_student() -> None:
    module = built(form("factor_transfer", pairs=PAIRS), S, T)
    assert learned(module, called(module, S, T)) == {"paraphrasers", "rebuilders", "translators"}


def test_the_rebuilding_has_weight_one_whatever_the_term_has() -> None:
    light, heavy = (
        built(form("factor_transfer", pairs=PAIRS, stage_epochs=1, weight=weight), S, T)
        for weight in (1, 200)
    )
    torch.testing.assert_close(200 * called(heavy, S, T), called(light, S, T))
    moving = {"from": 0.0, "to": 8.0, "over_epochs": 2}
    scheduled = built(form("factor_transfer", pairs=PAIRS, stage_epochs=2, weight=moving), S, T)
    scheduled.at_epoch(1)  # type: ignore[operator]
    torch.testing.assert_close(4 * called(scheduled, S, T), called(light, S, T))


def test_factors_have_as_many_channels_as_said() -> None:
    module = built(form("factor_transfer", pairs=PAIRS, k=0.01), S, T)
    assert dict(module.named_parameters())["translators.0.4.weight"].shape == (1, 1, 3, 3)
    s, t = torch.tensor([[3.0, 4.0]])[..., None, None], torch.tensor([[0.0, 2.0]])[..., None, None]
    assert factor_transfer.value([s], [t]).item() == pytest.approx((0.6 + 0.2) / 2)


# ---- knowledge review


def test_a_shallow_level_learns_from_the_deep_ones() -> None:
    module = built(form("review", pairs=PAIRS), S, T)
    names = {name.split(".")[1] for name, _ in module.named_parameters() if ".attend." in name}
    assert names == {"0"}, "the deepest level has nothing to fuse"
    s = S.map(lambda one: one.clone().requires_grad_())
    fusions = module.fusions
    assert isinstance(fusions, nn.ModuleList)
    fused, _ = fusions[0](s.features["a"], random(4, 5, 4, 4), torch.Size((4, 4)))
    assert fused.shape == (4, 6, 4, 4)
    assert all(grad.any() for grad in pulled(called(module, s, T), *s.features.values()))


def test_the_pooled_vector_is_the_deepest_level() -> None:
    s, t = shown(a=random(1, 3, 4, 4), b=random(1, 5)), shown(a=random(1, 6, 8, 8), b=random(1, 7))
    module = built(form("review", pairs=PAIRS), s, t)
    assert called(module, s, t).isfinite(), "one row, and one position of it: nothing to normalize over"
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(5).double()(random(1, 5, 1, 1))


def test_review_by_hand() -> None:
    s, t = torch.zeros(1, 1, 2, 2), torch.tensor([[[[2.0, 0.0], [0.0, 2.0]]]])
    assert review.value([s], [t]).item() == pytest.approx((2 + 0.5 * 1) / 1.5)
    assert review.value([s, s], [t, t]).item() == pytest.approx(2 * 2.5 / 1.5)


# ---- contrast


def contrast(rows: int = 12, **said: Any) -> nn.Module:
    return built(form("crd", embed=3, **said), shown(auto=random(4, 5)), shown(auto=random(4, 6)), rows=rows)


def pictures(seed: int) -> tuple[Outputs, Outputs]:
    return shown(auto=random(4, 5, seed=seed)), shown(auto=random(4, 6, seed=seed + 50))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_banks_hold_one_unit_vector_a_row_and_learn_the_rows_of_the_batch() -> None:
    module = contrast(negatives=4, momentum=0.25)
    before, rows = state(module), torch.tensor([7, 0, 11, 2])
    student, teacher = pictures(0)
    called(module, student, teacher, indices=rows)
    after = state(module)
    for side, shows in (("student", student), ("teacher", teacher)):
        old, new = before[f"{side}_bank"], after[f"{side}_bank"]
        assert old.shape == (12, 3)
        same = (old == new).all(1)
        assert same.nonzero().flatten().tolist() == [row for row in range(12) if row not in rows]
        layer = getattr(module, side)
        embedded = nn.functional.normalize(layer(shows.features["auto"]))
        expected = nn.functional.normalize(0.25 * old[rows] + 0.75 * embedded)
        torch.testing.assert_close(new[rows], expected)


@pytest.mark.parametrize("negatives", [2, 9])  # few of many rows, and so many that all rows are scored
def test_contrast_by_hand(negatives: int) -> None:
    module = contrast(rows=12, negatives=negatives, temperature=0.5)
    chosen: list[Tensor] = []
    draw = module._chosen
    module._chosen = lambda own: chosen.append(draw(own)) or chosen[-1]  # type: ignore[assignment, operator, func-returns-value]
    zs: list[Tensor] = []
    for step in range(3):
        before, (student, teacher) = state(module), pictures(step)
        rows = torch.tensor([3, 8, 1, 10])
        found = called(module, student, teacher, indices=rows)
        picks = chosen[-1]
        assert picks[:, 0].tolist() == rows.tolist()
        assert not (picks[:, 1:] == rows[:, None]).any()
        assert picks.shape == (4, 1 + negatives)
        total = torch.zeros((), dtype=torch.float64)
        for place, (side, other, shows) in enumerate(
            (("student", "teacher", student), ("teacher", "student", teacher))
        ):
            embedded = nn.functional.normalize(getattr(module, side)(shows.features["auto"]))
            e = (torch.einsum("bd,bkd->bk", embedded, before[f"{other}_bank"][picks]) / 0.5).exp()
            if step == 0:
                zs.append(e.mean() * 12)
            e = e / zs[place]
            noise = negatives / 12
            total -= (e[:, 0] / (e[:, 0] + noise)).log().sum() / 4
            total -= (noise / (e[:, 1:] + noise)).log().sum() / 4
        torch.testing.assert_close(found, total, rtol=1e-5, atol=0)
    assert all(not torch.equal(one, other) for one, other in pairwise(chosen))


def test_a_resumed_contrast_goes_on_as_it_would_have() -> None:
    straight, stopped = contrast(negatives=5), contrast(negatives=5)
    rows = torch.tensor([3, 8, 1, 10])
    for step in range(3):
        for module in (straight, stopped):
            called(module, *pictures(step), indices=rows)
    resumed = built(form("crd", embed=3, negatives=5), *pictures(0), rows=12, seed=99)
    resumed.seed = stopped.seed
    resumed.load_state_dict(state(stopped))
    for step in range(3, 6):
        found = [called(module, *pictures(step), indices=rows) for module in (straight, resumed)]
        assert torch.equal(*found)


def test_a_measurement_leaves_no_trace() -> None:
    module = contrast(negatives=5).eval()
    before = state(module)
    called(module, *pictures(0), indices=torch.arange(4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(module).items())


def test_memory_is_bounded_by_the_rows() -> None:
    module = contrast(rows=6)
    assert module.negatives == 5
    assert sum(buffer.numel() for buffer in module.buffers()) == 2 * 6 * 3 + 2 + 1
    rows = torch.tensor([3, 5, 1, 0])
    assert called(module, *pictures(0), indices=rows).isfinite()
    masked = called(module, *pictures(0), indices=torch.tensor([3, 10**9, 1, 0]), mask=torch.arange(4) != 1)
    assert masked.isfinite()


def test_a_training_set_of_one_row_has_nothing_to_tell_it_from() -> None:
    s, t = shown(auto=random(1, 5)), shown(auto=random(1, 6))
    module = built(form("crd"), s, t, rows=1)
    found = called(module, s, t, indices=torch.tensor([0]))
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert all(grad.isfinite().all() for grad in pulled(found, *module.parameters()))


def test_contrast_draws_rows_together() -> None:
    s, t = random(4, 5), random(4, 6, seed=1)
    module = built(form("crd", negatives=5), shown(auto=s), shown(auto=t), rows=12)
    batch = {"indices": torch.tensor([3, 8, 1, 10])}
    found = steps(module, 60, shown(auto=s), shown(auto=t), **batch)
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    assert learned(module, called(module, shown(auto=s), shown(auto=t), **batch)) == {"student", "teacher"}
