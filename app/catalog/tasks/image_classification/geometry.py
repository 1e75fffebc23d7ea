"""One image for several models: where it is augmented, and what each of them is shown of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.catalog.tasks.image_classification.preprocessing import Preprocessing, plain

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow weighs them
SMOOTH = {
    "bicubic": "bicubic",
    "lanczos": "bicubic",
}  # others are near torch's bilinear


def widest(preprocessings: Sequence[Preprocessing]) -> Preprocessing:
    """That of the largest image, the first among equals, in color where any of them is."""
    largest = max(preprocessings, key=lambda one: one.size[0] * one.size[1])
    channels = max(preprocessings, key=lambda one: one.channels).channels
    if channels == largest.channels:
        return largest
    own = plain(channels, largest.size)
    return largest.model_copy(update={key: getattr(own, key) for key in ("channels", "mean", "std")})


def fitted(rows: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """Pixels (B, C, H, W) from 0 to 255 in the size and channels of a model; alike ones stay as they are."""
    if preprocessing.channels == 1 < rows.shape[1]:
        rows = (rows * rows.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if rows.shape[-2:] != preprocessing.size:
        rows = _resized(rows, preprocessing)
    return rows.expand(-1, preprocessing.channels, -1, -1)


def _resized(rows: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    from torch.nn.functional import interpolate

    if preprocessing.resample == "nearest":
        return interpolate(rows, preprocessing.size, mode="nearest-exact")
    mode = SMOOTH.get(preprocessing.resample, "bilinear")
    return interpolate(rows, preprocessing.size, mode=mode, antialias=True).clamp(0, 255)
