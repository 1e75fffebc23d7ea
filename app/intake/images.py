"""Whether an image can be used: it is decoded whole, because a header can lie."""

import io
import struct
import zlib

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_IMAGE_BYTES = 256 * 1024**2
_UNDECODABLE = (  # all that Pillow's readers raise on damaged files
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


def defect(content: bytes, max_pixels: int) -> str | None:
    """Why the image cannot be used; None when it can."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # its own limit only warns; the one below refuses
    if len(content) > MAX_IMAGE_BYTES:
        return f"the image is larger than {MAX_IMAGE_BYTES:,} bytes"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return f"the image has {image.width} x {image.height} pixels, more than {max_pixels:,}"
            image.load()
    except _UNDECODABLE:
        return f"the image cannot be decoded; {', '.join(FORMATS)} are read"
    return None
