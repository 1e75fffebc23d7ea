"""What each change of a row does, whatever it draws, and that a row which is not meant to change stays."""

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from app.catalog._torch import uniform
from app.catalog.augmentations.color_jitter import turned
from app.catalog.base import Augmentation, Chance, Vocabulary
from app.catalog.mixing import DRAWS, Mixing, beta
from app.catalog.spec import AUGMENTATIONS
from app.catalog.tasks.image_classification import ImageClassification
from app.catalog.tasks.image_classification.preprocessing import Preprocessing, plain
from app.errors import Invalid

ROWS = torch.randint(0, 256, (400, 3, 12, 10), generator=torch.Generator().manual_seed(0)).float()
WORDS = Vocabulary(lost=4, special=frozenset({0, 2, 3}))
IMAGES = [kind for kind, form in AUGMENTATIONS.items() if form.modality == "image"]
STILL: dict[str, dict[str, Any]] = {
    "horizontal_flip": {"p": 0},
    "random_erasing": {"p": 0},
    "color_jitter": {"brightness": 0, "contrast": 0, "saturation": 0},
    "token_dropout": {"p": 0},
}


def form(kind: str, **parameters: Any) -> Augmentation:
    return AUGMENTATIONS[kind].model_validate({"kind": kind, **parameters})


def chance(rows: int = len(ROWS), seed: int = 0) -> Chance:
    return lambda count: uniform(seed, torch.arange(rows)[:, None], torch.arange(count))


def always(*draws: float) -> Chance:
    return lambda count: torch.tensor(draws, dtype=torch.float64)[:count].expand(len(ROWS), -1)


def applied(made: Augmentation, rows: Tensor = ROWS, drawn: Chance | None = None) -> Tensor:
    return made(rows, drawn or chance(len(rows)), None)


@pytest.mark.parametrize("kind", sorted(AUGMENTATIONS))
def test_it_changes_a_copy_of_most_rows_and_keeps_their_form(kind: str) -> None:
    made = form(kind)
    rows = torch.randint(5, 90, (400, 30)) if made.modality == "text" else ROWS
    before = rows.clone()
    if isinstance(made, Mixing):
        changed, _ = made.mix(rows, rows.flip(0), chance())
    else:
        changed = made(rows, chance(), WORDS)
    assert torch.equal(rows, before)
    assert (changed.shape, changed.dtype) == (rows.shape, rows.dtype)
    assert 0.4 < (changed != rows).flatten(1).any(1).float().mean().item() <= 1
    if made.modality == "image":
        assert changed.min() >= 0
        assert changed.max() <= 255


@pytest.mark.parametrize("kind", sorted(STILL))
def test_what_is_turned_off_leaves_rows_as_they_are_to_the_last_bit(kind: str) -> None:
    made = form(kind, **STILL[kind])
    rows = torch.randint(5, 90, (400, 30)) if made.modality == "text" else ROWS
    assert torch.equal(made(rows, chance(), WORDS), rows)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 1, 1), (1, 2, 9)])
def test_gray_small_and_narrow_images_are_taken(kind: str, shape: tuple[int, ...]) -> None:
    made, rows = form(kind), torch.full((6, *shape), 200.0)
    changed = made.mix(rows, rows, chance(6))[0] if isinstance(made, Mixing) else applied(made, rows)
    assert changed.shape == rows.shape
    assert changed.isfinite().all()


def test_a_flip_mirrors_as_many_rows_as_it_says() -> None:
    changed = applied(form("horizontal_flip", p=0.3))
    mirrored = (changed == ROWS.flip(-1)).flatten(1).all(1)
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(changed[~mirrored], ROWS[~mirrored])


def test_a_crop_is_the_image_moved_with_black_behind_it() -> None:
    down_right = applied(form("random_crop", padding=2), drawn=always(0.0, 0.0))
    assert torch.equal(down_right[:, :, 2:, 2:], ROWS[:, :, :-2, :-2])
    assert not down_right[:, :, :2].any()
    assert not down_right[:, :, :, :2].any()
    assert torch.equal(applied(form("random_crop", padding=2), drawn=always(0.5, 0.5)), ROWS)
    up = applied(form("random_crop", padding=2), drawn=always(0.9999, 0.5))
    assert torch.equal(up[:, :, :-2], ROWS[:, :, 2:])


@pytest.mark.parametrize(("draw", "turns"), [(1.0, -1), (0.0, 1), (0.5, 0)])
def test_a_rotation_by_a_right_angle_is_numpys(draw: float, turns: int) -> None:
    square = ROWS[..., :10, :]
    turned = applied(form("rotation", degrees=90), square, always(draw))
    torch.testing.assert_close(turned, square.rot90(turns, (2, 3)), atol=0.05, rtol=0)


def test_an_oblong_image_is_turned_and_not_skewed() -> None:
    """A square in its middle comes back a quarter turn later."""
    rows = torch.zeros(len(ROWS), 1, 12, 20)
    rows[:, :, 4:8, 8:12] = torch.arange(16.0).view(4, 4) * 10
    wanted = torch.zeros_like(rows)
    wanted[:, :, 4:8, 8:12] = rows[:, :, 4:8, 8:12].rot90(-1, (2, 3))
    found = applied(form("rotation", degrees=90), rows, always(1.0))
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("strength", "place", "enhance"),
    [
        ("brightness", 0, ImageEnhance.Brightness),
        ("contrast", 1, ImageEnhance.Contrast),
        ("saturation", 2, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("draw", [0.05, 0.9])
def test_light_is_changed_as_pillow_changes_it(strength: str, place: int, enhance: Any, draw: float) -> None:
    off = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0)
    draws = [0.5] * 4
    draws[place] = draw
    changed = applied(form("color_jitter", **off | {strength: 0.5}), drawn=always(*draws))
    for row, found in zip(ROWS[:5], changed[:5], strict=True):
        image = Image.fromarray(row.permute(1, 2, 0).byte().numpy())
        wanted = np.asarray(enhance(image).enhance(1 + (2 * draw - 1) * 0.5)).transpose(2, 0, 1)
        assert np.abs(found.numpy() - wanted).max() < 2


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25, 0.4])
def test_the_hue_is_turned_as_colorsys_turns_it(turn: float) -> None:
    rows = torch.cat([ROWS[:2], torch.full((1, 3, 12, 10), 77.0)])
    found = turned(rows, torch.tensor(turn)).permute(0, 2, 3, 1).reshape(-1, 3)
    for pixel, got in zip(rows.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), found.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(one / 255 for one in pixel))
        wanted = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert got == pytest.approx([one * 255 for one in wanted], abs=1e-2)


def test_an_erased_rectangle_has_the_area_and_the_shape_that_are_asked_for() -> None:
    rows = torch.rand(400, 1, 60, 60) * 200
    changed = applied(form("random_erasing", p=1, area=(0.1, 0.3), ratio=(0.5, 2)), rows)
    gone = changed != rows
    share = gone.flatten(1).float().mean(1)
    assert share.min() > 0.09
    assert share.max() < 0.32
    assert share.std() > 0.04
    high, wide = gone.any(3).sum((1, 2)), gone.any(2).sum((1, 2))
    assert torch.equal(high * wide, gone.flatten(1).sum(1))
    ratio = (high / wide).double()
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert (ratio > 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    color = changed.where(gone, torch.nan).flatten(1).nanmedian(1).values
    torch.testing.assert_close(color, rows.mean((1, 2, 3)))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    drawn = beta(alpha, chance(4000)(2 * DRAWS))
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert drawn.isfinite().all()


def test_even_a_tiny_alpha_gives_shares() -> None:
    drawn = beta(0.001, chance(4000)(2 * DRAWS))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_row_is_so_much_of_itself_as_its_share_says(kind: str) -> None:
    made = form(kind)
    assert isinstance(made, Mixing)
    rows, others = torch.full((400, 1, 24, 24), 100.0), torch.full((400, 1, 24, 24), 50.0)
    mixed, share = made.mix(rows, others, chance())
    assert share.dtype == torch.float32
    assert share.min() >= 0.5
    torch.testing.assert_close(mixed.mean((1, 2, 3)), 100 * share + 50 * (1 - share))
    assert share.std() > 0.05
    if kind == "cutmix":
        assert ((mixed == 100) | (mixed == 50)).all()
        corners = mixed[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == 50).all(1).any()  # of some it is the rectangle that stays


def test_dropped_tokens_become_the_lost_one_and_special_ones_stay() -> None:
    text = torch.randint(5, 100, (400, 20))
    first, last, padding = torch.full((400, 1), 2), torch.full((400, 1), 3), torch.zeros(400, 8).long()
    rows = torch.cat([first, text, last, padding], 1)
    changed = form("token_dropout", p=0.2)(rows, chance(), WORDS)
    assert torch.equal(changed[:, [0, *range(21, 30)]], rows[:, [0, *range(21, 30)]])
    dropped = changed[:, 1:21] == WORDS.lost
    assert torch.equal(changed[:, 1:21][~dropped], text[~dropped])
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("random_erasing", {"area": (0.5, 0.2)}),
        ("random_erasing", {"area": (0, 0.2)}),
        ("random_crop", {"padding": 0}),
        ("rotation", {"degrees": 181}),
        ("color_jitter", {"hue": 0.6}),
        ("mixup", {"alpha": 0}),
        ("token_dropout", {"p": 1}),
        ("horizontal_flip", {"chance": 1}),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        form(kind, **parameters)


# ---- one image for several models

TASK = ImageClassification()


def test_rows_are_augmented_where_the_largest_model_sees_them_in_color_if_any_is() -> None:
    small, large, gray = plain(3, (32, 32)), plain(3, (64, 48)), plain(1, (64, 64))
    assert TASK.source([small, large]) == large
    assert TASK.source([small, plain(3, (32, 32)).model_copy(update={"rescale": 1.0})]) == small
    both = TASK.source([small, gray])
    assert (both.channels, both.size, len(both.mean)) == (3, (64, 64), 3)


def test_a_model_of_the_same_size_and_channels_is_shown_the_very_pixels() -> None:
    assert torch.equal(TASK.fitted(ROWS, plain(3, (12, 10))), ROWS)


def test_gray_becomes_color_and_color_gray_as_pillow_has_it() -> None:
    gray = TASK.fitted(ROWS, plain(1, (12, 10)))
    for row, found in zip(ROWS[:5], gray[:5], strict=True):
        image = Image.fromarray(row.permute(1, 2, 0).byte().numpy()).convert("L")
        assert np.abs(found[0].numpy() - np.asarray(image)).max() <= 0.51
    assert torch.equal(TASK.fitted(gray, plain(3, (12, 10))), gray.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 20), (80, 64)])
def test_another_size_is_near_what_pillow_makes(resample: Any, size: tuple[int, int]) -> None:
    coordinates = torch.stack(torch.meshgrid(torch.arange(48), torch.arange(40), indexing="ij")).float()
    rows = (127 + 100 * (coordinates[0] / 7).sin() * (coordinates[1] / 5).cos()).round().expand(2, 3, 48, 40)
    own = Preprocessing(size=size, resize=size, resample=resample, mean=(0.5,) * 3, std=(0.5,) * 3)
    found = TASK.fitted(rows, own)[0, 0].numpy()
    image = Image.fromarray(rows[0, 0].byte().numpy())
    wanted = image.resize(size[::-1], Image.Resampling[resample.upper()])
    assert np.abs(found - np.asarray(wanted)).max() < 2.5
    assert found.shape == size


def test_models_that_read_rows_unlike_cannot_share_them_unless_their_task_says_how() -> None:
    from app.catalog.spec import TASKS

    task = TASKS["text_classification"](kind="text_classification")
    read = {"tokenizer": "0" * 64, "vocabulary": 10, "pad": 0, "max_length": 16}
    one, other = (task.parse_preprocessing(read | {"max_length": length}) for length in (16, 24))
    assert task.source([one, one]) == one
    with pytest.raises(Invalid, match="read them alike"):
        task.source([one, other])
