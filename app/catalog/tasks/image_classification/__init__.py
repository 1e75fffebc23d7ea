"""Images to one label each.

An image is decoded the same way everywhere: the orientation in its EXIF data is honored, transparency is
dropped, 16-bit gray keeps its upper eight bits. Resizing is Pillow's, so that plain transformers computes the
same input from the same file.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from app.catalog.answers import ranked
from app.catalog.base import Column, Input, Task, parse
from app.catalog.tasks.image_classification import geometry, pixels, processors
from app.catalog.tasks.image_classification.preprocessing import (
    RESAMPLE,
    Edge,
    Preprocessing,
    of_onnx,
    plain,
    scaled,
)
from app.errors import Fault, InvalidData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class ImageClassification(Task):
    """Tell which one of several classes an image shows."""

    modality: ClassVar[Literal["image", "vector"]] = "image"

    kind: Literal["image_classification"] = "image_classification"
    image_size: Literal["auto"] | Edge | tuple[Edge, Edge] = Field(
        "auto",
        description="edge in pixels, or [height, width], of what the student sees; auto: the first teacher's",
    )
    channels: Literal["auto", 1, 3] = Field("auto", description="1 gray, 3 color; auto: the first teacher's")

    def input_columns(self, columns: Mapping[str, Column], label: str | None) -> list[str]:
        images = [name for name, column in columns.items() if column.type == "image" and name != label]
        if len(images) == 1:
            return images
        found = ", ".join(sorted(images or columns)[:10])
        if images:
            fault = Fault(
                "/data/columns/input", "ambiguous", f"image columns are {found}", "name one of them"
            )
            raise InvalidData(f"The data has {len(images)} image columns ({found}), a model reads one", fault)
        fault = Fault(
            "/data/train",
            "no_image_column",
            f"its columns are {found}",
            "upload images, or choose another task",
        )
        raise InvalidData(f"The data has no column of images; its columns are {found}", fault)

    def preprocessing(
        self, columns: Mapping[str, Column], inputs: Sequence[str], teacher: Mapping[str, Any] | None
    ) -> Preprocessing:
        if len(inputs) != 1 or columns[inputs[0]].type != "image":
            fault = Fault(
                "/data/columns/input",
                "not_an_image",
                f"{', '.join(inputs)[:200]}",
                "name one column of images",
            )
            raise InvalidData("This task reads exactly one column of images", fault)
        first = self.parse_preprocessing(teacher) if teacher else plain(3, (224, 224))
        size = self.image_size
        size = first.size if size == "auto" else (size, size) if isinstance(size, int) else size
        student = first if size == first.size else scaled(first, size)
        channels = first.channels if self.channels == "auto" else self.channels
        channel = zip(first.mean, first.std, strict=True)
        brightest = max(abs(255 * first.rescale - mean) / std for mean, std in channel)
        if channels == first.channels and brightest <= 10:  # on raw pixel values a fresh student learns badly
            return student
        own = plain(channels, size)
        return student.model_copy(
            update={key: getattr(own, key) for key in ("channels", "rescale", "mean", "std")}
        )

    def parse_preprocessing(self, value: Mapping[str, Any]) -> Preprocessing:
        return parse(Preprocessing, value, "The preprocessing is not valid")

    def imported_preprocessing(
        self, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, input: Input | None
    ) -> Preprocessing:
        if input is not None:
            return of_onnx(input, preprocessor or {})
        return processors.preprocessing(config, preprocessor)

    def decided(self, preprocessing: Preprocessing) -> Self:
        return self.model_copy(update={"image_size": preprocessing.size, "channels": preprocessing.channels})

    def sidecars(self, preprocessing: Preprocessing) -> dict[str, Any]:
        height, width = preprocessing.size
        resize = preprocessing.size if preprocessing.resize is None else preprocessing.resize
        form = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": preprocessing.resize is not None,
            "size": {"shortest_edge": resize}
            if isinstance(resize, int)
            else {"height": resize[0], "width": resize[1]},
            "resample": RESAMPLE.index(preprocessing.resample),
            "do_center_crop": preprocessing.crop,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": preprocessing.rescale,
            "do_normalize": True,
            "image_mean": list(preprocessing.mean),
            "image_std": list(preprocessing.std),
        }
        if preprocessing.channels == 3:
            form["do_convert_rgb"] = True
        return {"preprocessor_config.json": form}

    def input(self, preprocessing: Preprocessing) -> Input:
        return Input(modality="image", shape=(preprocessing.channels, *preprocessing.size))

    def encode(self, raw: bytes, preprocessing: Preprocessing) -> "NDArray[np.uint8]":
        import numpy as np

        image = pixels.open_image(raw, "L" if preprocessing.channels == 1 else "RGB")
        values = np.asarray(pixels.resized(image, preprocessing))
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        if preprocessing.crop:
            values = pixels.cropped(values, preprocessing.size)
        if values.shape[1:] != preprocessing.size:
            found, expected = (" x ".join(map(str, size)) for size in (values.shape[1:], preprocessing.size))
            raise InvalidData(f"The image is {found} pixels, this model takes exactly {expected}")
        return np.ascontiguousarray(values)

    def normalize(self, encoded: Any, preprocessing: Preprocessing) -> Any:
        import numpy as np

        mean, std = (
            np.array(one, np.float32).reshape(-1, 1, 1) for one in (preprocessing.mean, preprocessing.std)
        )
        if isinstance(encoded, np.ndarray):
            return (encoded.astype(np.float32) * np.float32(preprocessing.rescale) - mean) / std
        values = encoded.float() * preprocessing.rescale
        return values.sub_(values.new_tensor(mean)).div_(values.new_tensor(std))

    def source(self, preprocessings: Sequence[Preprocessing]) -> Preprocessing:
        return geometry.widest(preprocessings)

    def fitted(self, rows: "Tensor", preprocessing: Preprocessing) -> "Tensor":
        return geometry.fitted(rows, preprocessing)

    def decode(
        self, logits: "NDArray[np.float32]", labels: Sequence[str], *, top_k: int
    ) -> list[dict[str, Any]]:
        return ranked(logits, labels, top_k)
