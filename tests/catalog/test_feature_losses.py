"""Losses over layers: which layers and tokens count, how two layers meet, and what each value is."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from app.catalog.base import Batch, Context, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import aligned, as_map
from app.catalog.spec import LOSSES
from app.errors import ShapeMismatch
from tests.catalog.layers import built, called, form, pulled, random, shapes, shown

PAIRED = sorted(kind for kind, loss in LOSSES.items() if issubclass(loss, FeatureLoss))
SUMMED = [
    *("attention_transfer", "similarity", "nst", "fitnet", "hidden_mse", "hidden_cosine", "cwd", "pkd", "mgd")
]
OVER_TOKENS = [*SUMMED, "ab", "fsp", "vid", "factor_transfer"]


def value(kind: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = importlib.import_module(f"app.catalog.losses.{kind}").value
    return function


# ---- which layers


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize(
    "pairs",
    [
        *([], "none", 3, [["a"]], [["a", "b", "c"]], ["ab"], [["", "b"]], [["a", 2]]),
        *([["a", "b" * 201]], [["a", "b"]] * 17),
    ],
    ids=str,
)
def test_pairs_that_are_none_are_refused_where_they_stand(kind: str, pairs: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        form(kind, pairs=pairs)
    assert len(refused.value.errors()) == 1
    assert refused.value.errors()[0]["loc"][0] == "pairs"


@pytest.mark.parametrize("kind", PAIRED)
def test_pairs_are_kept_as_they_were_said(kind: str) -> None:
    said = form(kind, pairs=[["a" * 200, "b"]] * 15 + [["c", "d"]], teacher=1)
    assert LOSSES[kind].model_validate_json(said.model_dump_json()) == said
    assert said.taps() == (["a" * 200, "c"], ["b", "d"])
    assert form(kind).taps() == ([], [])
    found = form(kind).paired([("a", "b"), ("c", "d")])
    assert found == form(kind, pairs=[["a", "b"], ["c", "d"]])


def test_neighbors_need_two_pairs() -> None:
    with pytest.raises(ValidationError, match="at least 2 pairs"):
        form("fsp", pairs=[["a", "b"]])
    with pytest.raises(ShapeMismatch, match="needs 2 pairs of layers and 1 could"):
        form("fsp").paired([("a", "b")])


def test_a_representation_is_the_layer_that_is_named_or_the_classifier_s_input() -> None:
    assert form("rkd").taps() == (["auto"], ["auto"])
    named = form("rkd", layer=["neck", "head"])
    assert named.taps() == (["neck"], ["head"])
    s, t, other = random(4, 3), random(4, 5, seed=1), random(4, 3, seed=2)
    expected = value("rkd")([s], [t])
    assert torch.equal(called(named, shown(neck=s, auto=other), shown(head=t)), expected)
    assert torch.equal(called(form("rkd"), shown(neck=s), shown(head=t)), expected)
    assert torch.equal(called(form("rkd"), shown(other=other, auto=s), shown(auto=t)), expected)


# ---- what the values are


@pytest.mark.parametrize("kind", SUMMED)
def test_pairs_are_summed(kind: str) -> None:
    s, t = [random(3, 4, 4, 4), random(3, 5, 2, 2)], [random(3, 4, 4, 4, seed=1), random(3, 5, 2, 2, seed=2)]
    alone = sum(value(kind)([one], [other]).item() for one, other in zip(s, t, strict=True))
    assert value(kind)(s, t).item() == pytest.approx(alone, rel=1e-12)
    a, b = shown(a=s[0], b=s[1]), shown(x=t[0], y=t[1])
    assert called(form(kind, pairs=[["a", "x"], ["b", "y"]]), a, b).item() == pytest.approx(alone, rel=1e-12)


def test_a_deeper_boundary_counts_twice_the_one_before() -> None:
    s, t = random(3, 4), random(3, 4, seed=1)
    once = value("ab")([s], [t])
    torch.testing.assert_close(value("ab")([s, s, s], [t, t, t]), once * 1.75)


def test_boundaries_by_hand() -> None:
    s, t = torch.tensor([[-3.0, 0.5, 0.5, 3.0]]), torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    assert value("ab")([s], [t]).item() == pytest.approx(3 / 1000 * (1.5**2 + 0.5**2))
    assert value("ab")([s], [t], margin=4.0).item() == pytest.approx(3 / 1000 * (1 + 4.5**2 + 3.5**2 + 1))


def test_attention_by_hand() -> None:
    s = torch.tensor([[[[3.0]], [[0.0]]]]).expand(1, 2, 1, 2).clone()  # equally active at both positions
    t = torch.tensor([[[[0.0, 2.0]], [[0.0, 2.0]]]])  # at the second one alone
    expected = (0.5 + (1 - math.sqrt(0.5)) ** 2) / 2
    assert value("attention_transfer")([s], [t]).item() == pytest.approx(expected)


def test_channel_wise_by_hand() -> None:
    s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[math.log(3.0), 0.0]]]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert value("cwd")([s], [t]).item() == pytest.approx(kl, rel=1e-6)
    assert value("cwd")([s, s], [4 * t, 4 * t], tau=4.0).item() == pytest.approx(32 * kl, rel=1e-6)


def test_flow_by_hand() -> None:
    below, above = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    zero = torch.zeros_like(below)
    assert value("fsp")([below, above], [zero, zero]).item() == pytest.approx(5.5**2)


def test_minilm_by_hand() -> None:
    a_t, a_s = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
    v = random(1, 1, 2, 3).float()
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert value("minilm")([a_s, v], [a_t, v]).item() == pytest.approx(kl / 2, rel=1e-5)
    v_s, v_t = torch.zeros(1, 1, 2, 1), torch.tensor([math.sqrt(math.log(3.0)), 0.0]).view(1, 1, 2, 1)
    assert value("minilm")([a_t, v_s], [a_t, v_t]).item() == pytest.approx(kl / 2, rel=1e-5)


def test_what_a_loss_does_not_look_at_changes_nothing() -> None:
    s, t = random(4, 3, 4, 4), random(4, 3, 4, 4, seed=1)
    gain, shift = (
        torch.linspace(0.5, 3, 3).double()[:, None, None],
        torch.linspace(-4, 4, 3).double()[:, None, None],
    )
    order = torch.tensor([2, 0, 3, 1])
    turn = torch.linalg.qr(random(48, 48, seed=3))[0]
    for kind, changed in {
        "attention_transfer": [(s * 7, t), (s[:, [1, 2, 0]], t)],
        "similarity": [(s * 7, t), (s[order], t[order]), ((s.flatten(1) @ turn).view_as(s), t)],
        "nst": [(s * gain, t), (s[:, [1, 2, 0]], t)],
        "pkd": [(s * gain + shift, t)],
        "cwd": [(s + shift, t)],
        "hidden_cosine": [(s * order.double()[:, None, None, None].add(1), t)],
        "rkd": [(s * 7, t), (s[order], t[order]), ((s.flatten(1) @ turn).view_as(s) + 1, t)],
        "pkt": [(s * 7, t), (s[order], t[order]), ((s.flatten(1) @ turn).view_as(s), t)],
    }.items():
        plain = value(kind)([s], [t])
        for mine, theirs in changed:
            torch.testing.assert_close(value(kind)([mine], [theirs]), plain, rtol=1e-6, atol=1e-12)
        assert (value(kind)([s.roll(1, 3) * gain.exp()], [t]) - plain).abs() > 1e-6


def test_a_row_that_comes_twice_has_no_direction_to_be_pulled_in() -> None:
    s, t = random(5, 6).requires_grad_(), random(5, 6, seed=1)
    with torch.no_grad():
        s[1] = s[0]
    (grad,) = pulled(value("rkd")([s], [t], distance=0), s)
    assert grad.abs().max() < 1e3


# ---- which rows and tokens


@pytest.mark.parametrize("kind", OVER_TOKENS)
def test_padding_is_as_if_it_were_not_there(kind: str) -> None:
    lengths = [2, 4]
    mask = torch.tensor([[position < length for position in range(6)] for length in lengths])
    s, t = [random(2, 6, 3, seed=k) for k in (0, 1)], [random(2, 6, 3, seed=k) for k in (2, 3)]
    short = value(kind)([one[:, :4] for one in s], [one[:, :4] for one in t], mask[:, :4])
    for side in (s, t):
        for one in side:
            one[~mask] = float("nan")
    for one in s:
        one.requires_grad_()
    long = value(kind)(s, t, mask)
    torch.testing.assert_close(long, short, rtol=1e-12, atol=0)
    for grad in pulled(long, *s):
        assert grad.isfinite().all()
        assert not grad[~mask].any()
        assert grad[mask].any()


@pytest.mark.parametrize("kind", ["attention_mse", "minilm"])
def test_padding_is_as_if_it_were_not_there_for_attention(kind: str) -> None:
    mask = torch.tensor([[True] * 3 + [False] * 2])

    def side(seed: int) -> list[Tensor]:
        attention = random(1, 2, 5, 5, seed=seed).masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
        return [attention, random(1, 2, 5, 4, seed=seed + 1)] if kind == "minilm" else [attention]

    s, t = side(0), side(2)
    small = [
        [one[:, :, :3, :3] if place == 0 else one[:, :, :3] for place, one in enumerate(both)]
        for both in (s, t)
    ]
    short = value(kind)(*small)
    for both in (s, t):
        both[0][:, :, 3:] = float("nan")
        both[0][:, :, :, 3:] = float("inf")
        for one in both[1:]:
            one[:, :, 3:] = float("nan")
    for one in s:
        one.requires_grad_()
    long = value(kind)(s, t, mask)
    torch.testing.assert_close(long, short, rtol=1e-12, atol=0)
    assert all(grad.isfinite().all() and not grad[:, :, 3:].any() for grad in pulled(long, *s))


def test_a_projector_never_sees_what_does_not_count() -> None:
    s, t = random(2, 3, 4), random(2, 3, 6, seed=1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = built(form("hidden_mse", pairs=[["a", "b"]]), shown(a=s), shown(b=t))
    clean = called(loss, shown(a=s), shown(b=t), mask=mask)
    s[~mask], t[~mask] = float("nan"), float("inf")
    dirty = called(loss, shown(a=s), shown(b=t), mask=mask)
    assert torch.equal(dirty, clean)
    assert all(grad.isfinite().all() and grad.any() for grad in pulled(dirty, *loss.parameters()))


@pytest.mark.parametrize("kind", [*OVER_TOKENS, "rkd", "pkt", "correlation", "crd"])
def test_a_row_that_does_not_count_is_not_there(kind: str) -> None:
    s, t = [random(4, 3, 4), random(4, 3, 4, seed=1)], [random(4, 3, 4, seed=2), random(4, 3, 4, seed=3)]
    keep = torch.tensor([True, False, True, True])
    expected = value(kind)([one[keep] for one in s], [one[keep] for one in t])
    for one in (*s, *t):
        one[~keep] = float("nan")
    assert torch.equal(value(kind)(s, t, keep), expected)
    tokens = keep[:, None].expand(4, 3)
    torch.testing.assert_close(value(kind)(s, t, tokens), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", sorted({*OVER_TOKENS, "attention_mse", "minilm"} - {"similarity", "pkd"}))
def test_parts_of_padded_rows_add_up_by_what_they_count(kind: str) -> None:
    mask = torch.tensor(
        [[True] * 5, [True] * 2 + [False] * 3, [True] * 3 + [False] * 2, [True, *[False] * 4]]
    )
    sizes = [(4, 2, 5, 5), (4, 2, 5, 3)] if "attentions" in LOSSES[kind].needs else [(4, 5, 3)] * 2
    s, t = ([random(*size, seed=place + 9 * side) for place, size in enumerate(sizes)] for side in (0, 1))
    if kind == "attention_mse":
        s, t = s[:1], t[:1]
    if "attentions" in LOSSES[kind].needs:
        s[0], t[0] = s[0].softmax(-1), t[0].softmax(-1)
    loss, total, counts = form(kind), torch.zeros((), dtype=torch.float64), 0
    for rows in (slice(0, 1), slice(1, 4)):
        count = int(loss.count(Batch(mask=mask[rows]), len(mask[rows])))
        total += count * value(kind)([one[rows] for one in s], [one[rows] for one in t], mask[rows])
        counts += count
    assert counts == int(loss.count(Batch(mask=mask), 4))
    torch.testing.assert_close(total / counts, value(kind)(s, t, mask), rtol=1e-12, atol=0)


# ---- how two layers meet


def test_a_loss_of_equal_widths_learns_nothing() -> None:
    context = Context({"a": (2, 4, 8, 8)}, {"b": (2, 4, 4, 4)})
    for kind in ("fitnet", "hidden_mse", "hidden_cosine", "cwd", "pkd", "ab"):
        loss = form(kind, pairs=[["a", "b"]])
        assert loss.build(context) is loss


@pytest.mark.parametrize("kind", ["fitnet", "hidden_mse", "hidden_cosine", "cwd", "pkd", "ab", "fsp"])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [((3, 4, 8, 8), (3, 6, 4, 4)), ((3, 4, 4, 4), (3, 6, 8, 8)), ((3, 5, 4), (3, 5, 6))],
    ids=str,
)
def test_a_projector_stands_where_widths_differ(
    kind: str, mine: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    s = shown(a=random(*mine), same=random(*theirs, seed=1))
    t = shown(b=random(*theirs, seed=2))
    loss = form(kind, pairs=[["a", "b"], ["same", "b"]])
    stream = torch.random.get_rng_state()
    module = built(loss, s, t, seed=5)
    assert torch.equal(torch.random.get_rng_state(), stream), "the student's own random stream has moved"
    assert [tuple(one.shape) for one in module.parameters()] == [(6, 4), (6,)]
    weights = [next(built(loss, s, t, seed=seed).parameters()) for seed in (5, 6)]
    assert torch.equal(weights[0], next(module.parameters()))
    assert not torch.equal(weights[0], weights[1])

    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    first = called(module, s, t)
    for _ in range(20):
        optimizer.zero_grad()
        called(module, s, t).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert called(module, s, t) < 0.99 * first


def test_tokens_meet_a_map_as_the_square_that_they_came_from() -> None:
    map_ = random(2, 6, 4, 4)
    tokens = map_.flatten(2).transpose(1, 2)
    with_class = torch.cat([random(2, 1, 6, seed=1), tokens], 1)
    for kind in ("fitnet", "attention_transfer", "nst", "cwd"):
        for mine in (tokens, with_class):
            assert value(kind)([mine], [map_]).item() == pytest.approx(0, abs=1e-12)
            assert value(kind)([map_], [mine]).item() == pytest.approx(0, abs=1e-12)
    module = built(form("fitnet", pairs=[["a", "b"]]), shown(a=with_class), shown(b=random(2, 9, 2, 2)))
    assert called(module, shown(a=with_class), shown(b=random(2, 9, 2, 2))).isfinite()
    with pytest.raises(ShapeMismatch, match="6 tokens are no square"):
        value("fitnet")([random(2, 6, 6)], [map_])


def test_tokens_of_two_lengths_are_pooled() -> None:
    wide, narrow = random(2, 17, 6), random(2, 5, 6)  # two images' patches, each after a class token
    mine, theirs = aligned(wide, narrow)
    assert mine.shape == theirs.shape == (2, 6, 2, 2)
    torch.testing.assert_close(mine, nn.functional.avg_pool2d(as_map(wide), 2))
    mine, theirs = aligned(random(2, 12, 6), random(2, 6, 6))  # no squares
    assert mine.shape == theirs.shape == (2, 6, 6)
    torch.testing.assert_close(mine, random(2, 12, 6).view(2, 6, 2, 6).mean(2))
    same = random(2, 7, 6), random(2, 7, 6, seed=1)
    assert all(one is other for one, other in zip(aligned(*same), same, strict=True))


def test_layers_that_do_not_fit_are_refused() -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ShapeMismatch, match="has 5; choose a layer that keeps one place for each token"):
        value("hidden_mse")([random(2, 3, 4)], [random(2, 3, 4)], mask)
    with pytest.raises(ShapeMismatch, match="the rows are padded"):
        value("fitnet")([random(2, 5, 4)], [random(2, 4, 2, 2)], mask)
    with pytest.raises(ShapeMismatch, match="4 wide and the teacher's 6"):
        value("fitnet")([random(2, 5, 4)], [random(2, 5, 6)])
    for kind in ("attention_transfer", "nst", "cwd"):
        with pytest.raises(ShapeMismatch, match=f"{kind} compares positions"):
            value(kind)([random(2, 4)], [random(2, 4)])
    for kind in ("mgd", "factor_transfer", "review"):
        tokens = shown(a=random(2, 4, 6))
        with pytest.raises(ShapeMismatch, match="padded tokens; use hidden_mse"):
            called(built(form(kind, pairs=[["a", "a"]]), tokens, tokens), tokens, tokens, mask=mask[:, :4])


@pytest.mark.parametrize("kind", ["attention_mse", "minilm"])
def test_heads_are_compared_with_as_many_heads(kind: str) -> None:
    context = Context({"a": (2, 4, 5, 5)}, {"b": (2, 12, 5, 5)})
    with pytest.raises(ShapeMismatch, match="4 heads and the teacher's 12; give the student 12 heads"):
        form(kind, pairs=[["a", "b"]]).build(context)
    attention, values = random(2, 4, 5, 5).softmax(-1), random(2, 4, 5, 3)
    narrow = Outputs(attentions={"a": attention}, values={"a": random(2, 4, 5, 7)})
    loss = form(kind, pairs=[["a", "a"]])
    shown_shapes = Context(shapes(narrow.attentions), shapes(narrow.attentions))
    found = loss.build(shown_shapes)(
        narrow, Outputs(attentions={"a": attention}, values={"a": values}), Batch()
    )
    assert (found.item() > 0) is (kind == "minilm")  # the values differ, and their widths may
