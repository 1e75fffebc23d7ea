"""What is drawn for a row is its own: nothing around it matters, and every model is shown the same."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from app.catalog.base import Vocabulary
from app.catalog.spec import AUGMENTATIONS
from app.catalog.tasks.image_classification import ImageClassification
from app.catalog.tasks.image_classification.preprocessing import Preprocessing, plain
from tests.worker.classroom import CPU
from worker.engine.augment import Augment, Drawn, chance
from worker.engine.device import Rows
from worker.engine.inputs import Augmented, Inputs

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), np.uint8)
WORDS = np.random.default_rng(0).integers(5, 90, (40, 30), np.int32)
LABELS = np.arange(40)
TASK = ImageClassification()
EVERY = [[{"kind": kind}] for kind, form in AUGMENTATIONS.items() if form.modality == "image"] + [
    [{"kind": "random_crop"}, {"kind": "mixup"}, {"kind": "horizontal_flip"}, {"kind": "cutmix"}]
]


def augment(
    forms: list[dict[str, Any]], rows: Any = PIXELS, seed: int = 3, partners: Any = LABELS
) -> Augment:
    made = [AUGMENTATIONS[form["kind"]].model_validate(form) for form in forms]
    words = Vocabulary(lost=4, special=frozenset({0}))
    return Augment(made, Rows(rows, CPU), partners=torch.from_numpy(partners), seed=seed, vocabulary=words)


def same(one: Drawn, other: Drawn, rows: Any = slice(None)) -> bool:
    parts = [(one.rows, other.rows), (one.partners, other.partners), (one.share, other.share)]
    return all(a is b is None or torch.equal(a[rows], b) for a, b in parts)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("forms", [*EVERY, [{"kind": "token_dropout"}]], ids=lambda forms: forms[-1]["kind"])
def test_what_is_drawn_depends_on_seed_moment_and_row_alone(forms: list[dict[str, Any]]) -> None:
    rows = WORDS if forms[0]["kind"] == "token_dropout" else PIXELS
    made, index = augment(forms, rows), torch.arange(40)
    whole = made(index, 2)
    assert same(whole, augment(forms, rows)(index, 2))
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert same(whole, made(shuffled, 2), shuffled)
    assert same(whole, made(torch.tensor([17]), 2), [17])
    torch.manual_seed(5)
    assert same(whole, made(index, torch.full((40,), 2)))
    for other in (made(index, 3), augment(forms, rows, seed=4)(index, 2)):
        assert not torch.equal(whole.rows, other.rows)


def test_every_row_may_have_a_moment_of_its_own() -> None:
    made, index, views = augment(EVERY[-1]), torch.arange(40).repeat_interleave(3), torch.arange(3).repeat(40)
    drawn = made(index, views)
    for view in range(3):
        assert same(drawn, made(torch.arange(40), view), views == view)


def test_the_same_change_twice_in_the_list_is_drawn_twice() -> None:
    once, twice = (augment([{"kind": "random_crop"}] * count)(torch.arange(40), 0).rows for count in (1, 2))
    assert not torch.equal(once, twice)


def test_numbers_are_what_they_always_were() -> None:
    """Stored answers are to these very draws; who changes them raises questions.VERSION."""
    drawn = chance(7, 3, torch.tensor([0, 1, 70_000]), 2)(2)
    expected = [[0.7333783128, 0.5443829633], [0.5251170034, 0.8865132052], [0.6359678800, 0.1404202147]]
    np.testing.assert_allclose(drawn.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("neighbor", ["row", "moment", "place", "seed", "draw"])
def test_neighbors_draw_numbers_that_have_nothing_to_do_with_each_other(neighbor: str) -> None:
    rows = torch.arange(20_000)
    one = chance(0, 0, rows, 0)(2)
    other = {
        "row": chance(0, 0, rows + 1, 0)(1)[:, 0],
        "moment": chance(0, 1, rows, 0)(1)[:, 0],
        "place": chance(0, 0, rows, 1)(1)[:, 0],
        "seed": chance(1, 0, rows, 0)(1)[:, 0],
        "draw": one[:, 1],
    }[neighbor]
    assert stats.kstest(one[:, 0].numpy(), "uniform").pvalue > 0.001
    assert abs(stats.pearsonr(one[:, 0].numpy(), other.numpy()).statistic) < 0.03
    assert abs(stats.pearsonr((one[:, 0] - 0.5).abs().numpy(), (other - 0.5).abs().numpy()).statistic) < 0.03


def test_a_row_is_mixed_with_another_as_that_one_is_at_the_same_moment() -> None:
    crop, learned = {"kind": "random_crop", "padding": 2}, np.array([1, 5, 8])
    mixed = augment([crop, {"kind": "mixup"}], partners=learned)(torch.arange(40), 6)
    alone = augment([crop])(torch.arange(40), 6).rows
    assert mixed.partners is not None
    assert mixed.share is not None
    assert set(mixed.partners.tolist()) == set(learned)  # never one of the rows that are held out
    share = mixed.share.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed.rows, alone * share + alone[mixed.partners] * (1 - share))


def test_of_two_ways_to_mix_each_row_gets_one() -> None:
    index = torch.arange(40).repeat(10)
    moments = torch.arange(10).repeat_interleave(40)
    both = augment([{"kind": "mixup"}, {"kind": "cutmix"}])(index, moments)
    assert both.partners is not None
    plain = torch.from_numpy(PIXELS).float()
    own, other = plain[index], plain[both.partners]
    pasted = ((both.rows == own) | (both.rows == other)).flatten(1).all(1)
    assert pasted.float().mean().item() == pytest.approx(0.5, abs=0.1)
    share = both.share.view(-1, 1, 1, 1)  # type: ignore[union-attr]
    torch.testing.assert_close((own * share + other * (1 - share))[~pasted], both.rows[~pasted])


def shown(preprocessing: Preprocessing, rows: Tensor) -> Tensor:
    batch: Tensor = TASK.normalize(TASK.fitted(rows, preprocessing), preprocessing)
    return batch


def inputs(forms: list[dict[str, Any]], views: int | None = None, **models: Preprocessing) -> Augmented:
    """models: teachers; the student is plain(3, (12, 12))."""
    student = partial(shown, plain(3, (12, 12)))
    teachers = {place: partial(shown, one) for place, one in enumerate(models.values())}
    return Augmented(augment(forms), Rows(LABELS, CPU), student, shown=teachers, views=views)


def test_what_changes_nothing_is_the_plain_batch_to_the_last_bit() -> None:
    still = [{"kind": "horizontal_flip", "p": 0}, {"kind": "random_erasing", "p": 0}]
    own, teacher = plain(3, (12, 12)), plain(3, (12, 12)).model_copy(update={"mean": (0.1, 0.2, 0.3)})
    index, rows = torch.tensor([4, 9, 2]), Rows(PIXELS, CPU)
    live = {0: (rows, partial(TASK.normalize, preprocessing=teacher))}
    expected = Inputs(rows, Rows(LABELS, CPU), partial(TASK.normalize, preprocessing=own), live=live)(
        index, 1
    )
    found = inputs(still, teacher=teacher)(index, 1)
    assert torch.equal(found.student, expected.student)
    assert torch.equal(found.teachers[0], expected.teachers[0])
    assert (found.batch.others, found.batch.share) == (None, None)


def test_labels_are_those_of_both_rows_and_positions_those_of_the_view() -> None:
    index = torch.tensor([4, 9, 2])
    live = inputs([{"kind": "cutmix"}])(index, 7)
    assert live.positions.tolist() == index.tolist()
    drawn = augment([{"kind": "cutmix"}])(index, 7)
    assert live.batch.labels.tolist() == live.batch.indices.tolist() == [4, 9, 2]  # type: ignore[union-attr]
    assert torch.equal(live.batch.others, drawn.partners)  # type: ignore[arg-type]
    assert torch.equal(live.batch.share, drawn.share)  # type: ignore[arg-type]
    stored = inputs([{"kind": "cutmix"}], views=3)(index, 7)
    assert stored.positions.tolist() == [13, 28, 7]
    assert torch.equal(stored.student, inputs([{"kind": "cutmix"}])(index, 1).student)


def test_a_control_is_given_the_same_rows_and_no_teacher_s() -> None:
    made, index = inputs([{"kind": "cutmix"}], views=3, teacher=plain(3, (12, 12))), torch.tensor([4, 9, 2])
    alone = made.alone()(index, 7)
    assert torch.equal(alone.student, made(index, 7).student)
    assert torch.equal(alone.batch.share, made(index, 7).batch.share)  # type: ignore[arg-type]
    assert not alone.teachers
    assert made(index, 7).teachers


def test_a_small_gray_student_and_a_large_teacher_see_the_same_image() -> None:
    small, large = plain(1, (6, 6)), plain(3, (12, 12))
    forms = [{"kind": "random_crop"}, {"kind": "horizontal_flip"}, {"kind": "mixup"}]
    found = Augmented(
        augment(forms), Rows(LABELS, CPU), partial(shown, small), shown={0: partial(shown, large)}
    )(torch.arange(40), 0)
    assert found.student.shape == (40, 1, 6, 6)
    assert found.teachers[0].shape == (40, 3, 12, 12)
    pixels = (found.teachers[0] * 0.5 + 0.5) * 255
    torch.testing.assert_close(shown(small, pixels), found.student, atol=1e-4, rtol=0)
