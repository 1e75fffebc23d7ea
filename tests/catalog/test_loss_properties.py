"""What holds for every loss of the catalog. A new one is covered as soon as its file is there."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from app.catalog.base import Batch, Outputs
from app.errors import ShapeMismatch
from tests.catalog.samples import (
    B,
    Subject,
    batch,
    built,
    context,
    random,
    rebuilt,
    shown,
    student,
    subjects,
    teacher,
    tensors,
    unlearned,
    value,
)

NOT_ZERO_AT_IDENTITY = {"cross_entropy", "task", "wsld", "vid", "crd", "ab", "ranking"}
MAY_BE_NEGATIVE = {"vid"}  # a likelihood
DETACHED_WEIGHTS = {"akl", "wsld"}  # no slope, then; test_losses.py has the references' gradients
REBUILT = "paraphrasers"  # parts that learn by rebuilding the teacher alone
SQUARES = {"factor_transfer", "mgd"}  # of tokens they make an image, which padded ones are not
TWICE = {"similarity": 0.5, "pkt": 0.5}  # what a batch twice over is worth, where it is not the same
# neighbors, negatives, a mask that is drawn; rkd's mean distance counts that of a row to its own copy
DEPENDS_ON_THE_BATCH = {"correlation", "crd", "mgd", "rkd"}
SUBJECTS = subjects()
SOME_ROWS = torch.tensor([True, False, True, True, False, True])
PADDED = [subject for subject in SUBJECTS if subject.layers in ("tokens", "attention")]
PADDING = ~torch.tensor(
    [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
).bool()


def but(kinds: Iterable[str]) -> pytest.MarkDecorator:
    """Every loss of the catalog but these."""
    left = [subject for subject in SUBJECTS if subject.loss.kind not in kinds]
    return pytest.mark.parametrize("subject", left, ids=str)


every_loss = but(())


def tracked(outputs: Outputs) -> Outputs:
    return outputs.map(lambda tensor: tensor.detach().clone().requires_grad_())


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@every_loss
def test_it_is_a_scalar_zero_at_identity_and_never_negative(subject: Subject) -> None:
    for seed in range(3):
        found = value(subject, student(subject, seed), teacher(subject, 100 + seed))
        assert found.shape == ()
        assert found.item() >= 0 or subject.loss.kind in MAY_BE_NEGATIVE
        if subject.loss.kind in NOT_ZERO_AT_IDENTITY:
            continue
        same = teacher(subject, 100 + seed)
        mine = rebuilt(shown(subject, torch.zeros, 0), tensors(same))
        assert unlearned(subject, mine, same).item() == pytest.approx(0, abs=1e-5)
        assert found.item() > 1e-6


@but(DETACHED_WEIGHTS)
def test_its_gradient_is_the_slope_of_its_value(subject: Subject) -> None:
    mine, theirs = student(subject, rows=4), teacher(subject, rows=4)
    made = built(subject, mine, theirs)
    learned: dict[str, Tensor] = {}
    if isinstance(made, nn.Module):
        made(mine, theirs, batch(subject, 4))  # so that what is a constant of the first batch is known
        made.eval()
        learned = {name: one for name, one in made.named_parameters() if not name.startswith(REBUILT)}

    def function(*inputs: Tensor) -> Tensor:
        arguments = (rebuilt(mine, inputs[len(learned) :]), theirs, batch(subject, 4))
        if not isinstance(made, nn.Module):
            return made(*arguments)
        result: Tensor = functional_call(made, dict(zip(learned, inputs, strict=False)), arguments)
        return result

    inputs = [*(one.detach().clone() for one in learned.values()), *tensors(mine)]
    assert torch.autograd.gradcheck(
        function, [one.requires_grad_() for one in inputs], fast_mode=bool(learned)
    )


@every_loss
def test_no_gradient_reaches_the_teacher(subject: Subject) -> None:
    mine, theirs = tracked(student(subject)), tracked(teacher(subject))
    backward(value(subject, mine, theirs))
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in tensors(mine))
    assert all(tensor.grad is None for tensor in tensors(theirs))


@but(DEPENDS_ON_THE_BATCH)
def test_a_batch_twice_over_is_worth_the_same_or_a_known_part(subject: Subject) -> None:
    mine, theirs, once = student(subject), teacher(subject), batch(subject)
    assert once.labels is not None
    twice = Batch(labels=once.labels.repeat(2), indices=torch.arange(2 * B))
    mine2, theirs2 = (one.map(lambda tensor: torch.cat([tensor, tensor])) for one in (mine, theirs))
    expected = value(subject, mine, theirs).item() * TWICE.get(subject.loss.kind, 1.0)
    rel = 0.1 if subject.loss.kind == "pkd" else 1e-6  # n - 1 in its deviation
    assert value(subject, mine2, theirs2, twice).item() == pytest.approx(expected, rel=rel)


@but({"mgd"})  # each part would draw another mask
@pytest.mark.parametrize("mask", [None, SOME_ROWS], ids=["all rows", "some rows"])
def test_the_parts_of_a_batch_make_the_whole_unless_it_says_otherwise(
    subject: Subject, mask: Tensor | None
) -> None:
    mine, theirs, whole = student(subject), teacher(subject), batch(subject, mask=mask)
    assert whole.labels is not None
    total, count = 0.0, 0.0
    for part in (slice(0, 2), slice(2, 6)):
        left = None if mask is None else mask[part]
        rows = Batch(labels=whole.labels[part], indices=torch.arange(B)[part], mask=left)
        counted = float(subject.loss.count(rows, part.stop - part.start))
        total, count = (
            total + counted * value(subject, picked(mine, part), picked(theirs, part), rows).item(),
            count + counted,
        )
    same = total / count == pytest.approx(value(subject, mine, theirs, whole).item(), rel=1e-9)
    assert same is not subject.loss.batch_statistic


GARBAGE = [float("nan"), float("inf"), 1e30, -3.0]


@every_loss
def test_rows_that_are_masked_do_not_count(subject: Subject) -> None:
    mask = SOME_ROWS
    mine, theirs, rows = student(subject), teacher(subject), batch(subject)
    assert rows.labels is not None
    assert rows.indices is not None
    left = Batch(labels=rows.labels[mask], indices=rows.indices[mask])
    clean = value(subject, picked(mine, mask), picked(theirs, mask), left)
    for garbage in GARBAGE:
        spoiled = tracked(spoiled_rows(mine, ~mask, garbage))
        labels = rows.labels.masked_fill(~mask, 10**6)
        dirty = value(
            subject,
            spoiled,
            spoiled_rows(theirs, ~mask, garbage),
            Batch(labels=labels, indices=rows.indices, mask=mask),
        )
        backward(dirty)
        assert dirty.item() == pytest.approx(clean.item(), rel=1e-9)
        for tensor in tensors(spoiled):
            assert tensor.grad is None or not tensor.grad[~mask].any()


def picked(outputs: Outputs, rows: Any) -> Outputs:
    return outputs.map(lambda tensor: tensor[rows])


def spoiled_rows(outputs: Outputs, gone: Tensor, garbage: float) -> Outputs:
    def spoil(tensor: Tensor) -> Tensor:
        return tensor.index_fill(0, gone.nonzero().flatten(), garbage)

    return outputs.map(spoil)


@pytest.mark.parametrize("subject", [one for one in PADDED if one.loss.kind not in SQUARES], ids=str)
def test_padding_does_not_count(subject: Subject) -> None:
    mine, theirs, rows = student(subject), teacher(subject), batch(subject, mask=~PADDING)
    found = []
    for garbage in GARBAGE:
        spoiled = tracked(in_padding(mine, PADDING, garbage))
        found.append(value(subject, spoiled, in_padding(theirs, PADDING, garbage), rows))
        backward(found[-1])
        for tensor in tensors(spoiled):
            if tensor.grad is not None:
                places = PADDING if tensor.ndim == 3 else PADDING[:, None].expand(tensor.shape[:3])
                assert not tensor.grad[places].any()
    assert found[0].isfinite()
    assert found[0].item() > 0 or subject.loss.kind in MAY_BE_NEGATIVE
    assert all(one.item() == pytest.approx(found[0].item(), rel=1e-9) for one in found)


@pytest.mark.parametrize("subject", [one for one in PADDED if one.loss.kind in SQUARES], ids=str)
def test_padded_tokens_are_no_image(subject: Subject) -> None:
    with pytest.raises(ShapeMismatch, match="padded tokens"):
        value(subject, student(subject), teacher(subject), batch(subject, mask=~PADDING))


def in_padding(outputs: Outputs, padding: Tensor, garbage: float) -> Outputs:
    """Tokens (B, T, D), attentions (B, H, T, T) and values (B, H, T, d) with garbage where no token is."""
    return Outputs(
        None,
        {path: one.masked_fill(padding[:, :, None], garbage) for path, one in outputs.features.items()},
        {
            path: one.masked_fill(padding[:, None, :, None] | padding[:, None, None, :], garbage)
            for path, one in outputs.attentions.items()
        },
        {path: one.masked_fill(padding[:, None, :, None], garbage) for path, one in outputs.values.items()},
    )


@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if not subject.layers], ids=str)
def test_logits_of_tokens_are_those_of_the_rows_that_they_would_make(subject: Subject) -> None:
    mine, theirs, rows = student(subject), teacher(subject), batch(subject)
    assert rows.labels is not None
    mask = torch.tensor([[True, False, True], [True, True, False]])
    tokens, taught = (one.map(lambda tensor: tensor.view(2, 3, -1)) for one in (mine, theirs))
    for counted, flat in ((mask, mask.flatten()), (None, None)):
        found = value(subject, tokens, taught, Batch(labels=rows.labels.view(2, 3), mask=counted))
        expected = value(subject, mine, theirs, batch(subject, mask=flat))
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def hard(name: str) -> Callable[[Sequence[int]], Tensor]:
    """Of a name a maker of tensors at the edges of what models show."""

    def make(shape: Sequence[int]) -> Tensor:
        if name == "random":
            return random(3)(shape)
        if name == "constant":
            return torch.full(tuple(shape), 7.0)
        if name == "zero":
            return torch.zeros(tuple(shape))
        signs = torch.where(torch.arange(torch.Size(shape).numel()).view(*shape) % 3 == 0, 1.0, -1.0)
        return signs * (200 if name == "saturated" else -200)

    return make


EDGES = ["random", "saturated", "saturated the other way", "constant", "zero"]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_it_stays_finite_at_the_edges(subject: Subject, dtype: torch.dtype, rows: int) -> None:
    for name in EDGES:
        for other in EDGES:
            mine = tracked(shown(subject, hard(name), 0, rows=rows).map(lambda tensor: tensor.to(dtype)))
            theirs = shown(subject, hard(other), 1, rows=rows).map(lambda tensor: tensor.to(dtype))
            made = subject.loss.build(context(mine, theirs))
            found = made(mine, theirs, batch(subject, rows))
            backward(found)
            assert found.dtype == torch.float32, "losses are never summed in half"
            assert found.isfinite(), (name, other)
            assert found.item() >= -1e-6 or subject.loss.kind in MAY_BE_NEGATIVE, (name, other)
            for tensor in tensors(mine):
                if tensor.grad is not None:  # in half a constant row's slope may lie beyond the range
                    sound = tensor.grad.isfinite() if dtype is not torch.float16 else ~tensor.grad.isnan()
                    assert sound.all(), (name, other)


@every_loss
def test_what_it_needs_is_all_it_reads(subject: Subject) -> None:
    mine, theirs = student(subject), teacher(subject)
    rows = batch(subject) if "labels" in subject.loss.needs else Batch(indices=torch.arange(B))
    assert value(subject, mine, theirs, rows).isfinite()
    tapped = [set(paths) for paths in subject.loss.taps()]
    shown_paths = [
        {path for part in (side.features, side.attentions, side.values) for path in part}
        for side in (mine, theirs)
    ]
    assert tapped == shown_paths


@every_loss
def test_where_nothing_counts_it_is_zero(subject: Subject) -> None:
    mine, theirs = tracked(student(subject)), teacher(subject)
    made = built(subject, mine, theirs)
    found = made(mine, theirs, batch(subject, mask=torch.zeros(B).bool()))
    backward(found)
    assert found.item() == 0
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in tensors(mine))
