"""From the bytes of an image file to pixels."""

import io
import struct
from typing import TYPE_CHECKING, Literal

from app.catalog.tasks.image_classification.preprocessing import RESAMPLE, Preprocessing, Size
from app.errors import InvalidData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # none of their readers starts a program
MAX_PIXELS = 64_000_000


def open_image(raw: bytes, mode: Literal["L", "RGB"]) -> "Image.Image":
    """The image, upright and in `mode`. Raises InvalidData where the bytes are none or it is too large."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        _check_pixels(*image.size)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise InvalidData(
                f"The image has pixels of kind {image.mode}; save it with 8 or 16 bits a channel"
            )
        return image.convert(mode)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        allowed = ", ".join(FORMATS)
        raise InvalidData(
            f"These {len(raw)} bytes cannot be decoded as an image ({allowed} are read)"
        ) from None


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidData(
            f"The image has {width} x {height} pixels, at most {MAX_PIXELS} are allowed; make it smaller"
        )


def resized(image: "Image.Image", preprocessing: Preprocessing) -> "Image.Image":
    from PIL import Image

    if preprocessing.resize is None:
        return image
    if isinstance(preprocessing.resize, int):
        short = min(image.size)
        width, height = (int(preprocessing.resize * edge / short) for edge in image.size)
        _check_pixels(width, height)  # a narrow strip grows without bound
    else:
        height, width = preprocessing.resize
    return image.resize((width, height), Image.Resampling(RESAMPLE.index(preprocessing.resample)))


def cropped(pixels: "NDArray[np.uint8]", size: Size) -> "NDArray[np.uint8]":
    """The middle of (C, H, W), with zeros around a smaller image; odd pixels fall as in transformers."""
    import numpy as np

    gaps = [max(want - have, 0) for want, have in zip(size, pixels.shape[1:], strict=True)]
    if any(gaps):
        pixels = np.pad(pixels, [(0, 0), *(((gap + 1) // 2, gap // 2) for gap in gaps)])
    top, left = ((have - want) // 2 for want, have in zip(size, pixels.shape[1:], strict=True))
    return pixels[:, top : top + size[0], left : left + size[1]]
