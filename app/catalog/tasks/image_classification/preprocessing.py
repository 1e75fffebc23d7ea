"""The schema of an image's way into a model, and where it comes from when nobody says it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from app.catalog.base import Frozen, Input, parse
from app.errors import Fault, Invalid

MAX_EDGE = 4096
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers

Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]
Size = tuple[Edge, Edge]


class Preprocessing(Frozen):
    """How an image becomes a model's input: resized, cropped, then (pixel * rescale - mean) / std."""

    channels: Literal[1, 3] = 3
    size: Size = Field(description="height and width that the model sees")
    resize: Size | Edge | None = Field(
        description="to exactly (height, width), to this shortest edge, or not at all"
    )
    crop: bool = Field(False, description="cut `size` out of the middle; zeros where the image is smaller")
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    rescale: PositiveFloat = 1 / 255
    mean: tuple[float, ...] = Field(description="one number a channel")
    std: tuple[PositiveFloat, ...] = Field(description="one number a channel")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers each, one a channel")
        if not self.crop and (isinstance(self.resize, int) or self.resize not in (None, self.size)):
            raise ValueError(
                f"without a crop images cannot all become {self.size[0]} x {self.size[1]} pixels"
            )
        return self


def plain_form(channels: Any, size: Any) -> dict[str, Any]:
    return {
        "channels": channels,
        "size": size,
        "resize": size,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
    }


def plain(channels: Literal[1, 3], size: Size) -> Preprocessing:
    """What transformers' ViTImageProcessor does unless told otherwise: values from -1 to 1."""
    return Preprocessing.model_validate(plain_form(channels, size))


def scaled(first: Preprocessing, size: Size) -> Preprocessing:
    """The same with another size: the crop keeps its share, so that both see the same part of an image."""
    resize: Size | int = size
    if first.crop and first.resize is not None:
        ratios = [want / have for want, have in zip(size, first.size, strict=True)]
        if isinstance(first.resize, int):
            resize = _edge(first.resize * max(ratios))
        else:
            resize = _edge(first.resize[0] * ratios[0]), _edge(first.resize[1] * ratios[1])
    return first.model_copy(
        update={"size": size, "resize": resize, "crop": first.crop and first.resize is not None}
    )


def _edge(pixels: float) -> int:
    return max(1, min(MAX_EDGE, round(pixels)))


def of_onnx(input: Input, said: Mapping[str, Any]) -> Preprocessing:
    """Pixels from 0 to 1 at the size of the ONNX file's input, but for what the user says."""
    if input.modality != "image" or len(input.shape) != 3 or input.shape[0] not in (1, 3):
        shape = " x ".join(map(str, input.shape))
        raise Invalid(
            f"The ONNX file takes an input of {shape}; an image needs 1 or 3 channels, height and width"
        )
    channels, *size = input.shape
    form = {
        "channels": channels,
        "size": size,
        "resize": size,
        "mean": [0.0] * channels,
        "std": [1.0] * channels,
    } | dict(said)
    preprocessing = parse(Preprocessing, form, "The preprocessing is not valid")
    if (preprocessing.channels, *preprocessing.size) != input.shape:
        given = " x ".join(map(str, (preprocessing.channels, *preprocessing.size)))
        fault = Fault(
            "/preprocessing/size", "shape_mismatch", given, f"use {' x '.join(map(str, input.shape))}"
        )
        raise Invalid(
            f"The preprocessing gives {given}, the ONNX file takes {' x '.join(map(str, input.shape))}", fault
        )
    return preprocessing
