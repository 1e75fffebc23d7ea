"""The same file gives the same numbers here and in plain transformers."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from app.catalog.base import Column, Input
from app.catalog.tasks.image_classification import ImageClassification, pixels
from app.catalog.tasks.image_classification.preprocessing import Preprocessing
from app.catalog.tasks.image_classification.processors import _PROCESSORS
from app.errors import Invalid, InvalidData

TASK = ImageClassification()
PHOTOS = load_sample_images().images  # two photographs, (427, 640, 3) uint8


def as_bytes(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(place: int = 0, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(PHOTOS[place]).convert(mode)


def by_transformers(folder: Path, image: Image.Image) -> np.ndarray:
    from transformers import AutoImageProcessor

    return np.asarray(
        AutoImageProcessor.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]  # type: ignore[no-untyped-call]
    )


def ours(raw: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return np.asarray(TASK.normalize(TASK.encode(raw, preprocessing)[None], preprocessing)[0])


TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessor", {"size": {"height": 48, "width": 64}}),
    "vit_old_file": ("ViTFeatureExtractor", {"size": 48, "resample": 2}),
    "vit_no_normalize": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "do_normalize": False}),
    "vit_no_rescale": (
        "ViTImageProcessor",
        {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
    ),
    "vit_shortest_edge": (
        "ViTImageProcessor",
        {"size": {"shortest_edge": 51}, "do_center_crop": True, "crop_size": {"height": 45, "width": 40}},
    ),
    "crop_only_pads": ("ViTImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": 501}),
    "deit": ("DeiTImageProcessor", {}),
    "convnext_small": ("ConvNextImageProcessorFast", {"size": {"shortest_edge": 61}, "crop_pct": 0.9}),
    "convnext_large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "mobilenet_v2": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 71}, "crop_size": 64}),
    "dinov2": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}},
    ),
    "beit": ("BeitImageProcessor", {}),
    "pvt": ("PvtImageProcessor", {}),
    "clip": ("CLIPImageProcessor", {}),
    "mobilenet_v1": ("MobileNetV1ImageProcessor", {}),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("case", TEACHERS)
def test_a_teachers_own_processor_is_followed_to_the_number(case: str, place: int, tmp_path: Path) -> None:
    kind, said = TEACHERS[case]
    key = "feature_extractor_type" if kind.endswith("FeatureExtractor") else "image_processor_type"
    file = {key: kind, **said}
    # transformers 5 no longer knows the old name
    written = (
        {"image_processor_type": "ViTImageProcessor", **said} if key == "feature_extractor_type" else file
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    preprocessing = TASK.imported_preprocessing({"model_type": "vit"}, file, None)
    raw = as_bytes(photo(place))
    expected = by_transformers(tmp_path, photo(place))
    assert ours(raw, preprocessing).shape == expected.shape == TASK.input(preprocessing).shape
    np.testing.assert_allclose(ours(raw, preprocessing), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", _PROCESSORS)
def test_what_a_processor_does_when_its_file_is_silent(kind: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": f"{kind}ImageProcessor"})
    )
    preprocessing = TASK.imported_preprocessing({}, {"image_processor_type": f"{kind}ImageProcessor"}, None)
    np.testing.assert_allclose(
        ours(as_bytes(photo()), preprocessing), by_transformers(tmp_path, photo()), rtol=0, atol=1e-6
    )


STUDENTS = [
    Preprocessing(size=(32, 40), resize=(32, 40), mean=(0.5,) * 3, std=(0.25,) * 3),
    Preprocessing(
        size=(32, 32), resize=37, crop=True, resample="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)
    ),
    Preprocessing(size=(600, 500), resize=None, crop=True, mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocessing(size=(427, 640), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0),
    Preprocessing(channels=1, size=(28, 28), resize=(28, 28), resample="lanczos", mean=(0.13,), std=(0.3,)),
]


@pytest.mark.parametrize("preprocessing", STUDENTS, ids=str)
def test_plain_transformers_reads_the_sidecar_to_the_same_numbers(
    preprocessing: Preprocessing, tmp_path: Path
) -> None:
    for name, content in TASK.sidecars(preprocessing).items():
        (tmp_path / name).write_text(json.dumps(content))
    image = photo(mode="L" if preprocessing.channels == 1 else "RGB")
    encoded = TASK.encode(as_bytes(image), preprocessing)
    assert encoded.dtype == np.uint8
    np.testing.assert_allclose(
        ours(as_bytes(image), preprocessing), by_transformers(tmp_path, image), rtol=0, atol=1e-6
    )
    again = TASK.imported_preprocessing(
        {"num_channels": preprocessing.channels},
        TASK.sidecars(preprocessing)["preprocessor_config.json"],
        None,
    )
    assert TASK.input(again) == TASK.input(preprocessing)
    assert np.array_equal(TASK.encode(as_bytes(image), again), encoded)


def test_numpy_and_torch_normalize_alike() -> None:
    preprocessing = STUDENTS[1]
    encoded = np.stack([TASK.encode(as_bytes(photo(place)), preprocessing) for place in (0, 1)])
    served, trained = (
        TASK.normalize(encoded, preprocessing),
        TASK.normalize(torch.from_numpy(encoded), preprocessing),
    )
    assert served.dtype == np.float32
    assert trained.dtype == torch.float32
    np.testing.assert_allclose(served, trained.numpy(), rtol=0, atol=5e-7)


def test_every_kind_of_image_file_becomes_upright_color_or_gray() -> None:
    color, gray = STUDENTS[0], STUDENTS[4]
    rgb = photo()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to see it right
    turned = as_bytes(rgb, "JPEG", quality=95, exif=exif.tobytes())
    upright = as_bytes(
        Image.open(io.BytesIO(as_bytes(rgb, "JPEG", quality=95))).transpose(Image.Transpose.ROTATE_270)
    )
    assert np.array_equal(TASK.encode(turned, color), TASK.encode(upright, color))
    files = [as_bytes(rgb.convert(mode)) for mode in ("RGBA", "LA", "1", "P")]
    files += [as_bytes(rgb, form) for form in ("WEBP", "BMP", "GIF", "TIFF")]
    for raw in [*files, as_bytes(rgb.convert("CMYK"), "JPEG")]:
        assert TASK.encode(raw, color).shape == (3, 32, 40)
        assert TASK.encode(raw, gray).shape == (1, 28, 28)
    eight = np.asarray(rgb.convert("L"))
    sixteen = Image.fromarray(eight.astype(np.uint16) * 256 + 255)
    assert np.array_equal(
        TASK.encode(as_bytes(sixteen), gray), TASK.encode(as_bytes(Image.fromarray(eight)), gray)
    )


def test_what_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = as_bytes(photo())
    eps = as_bytes(photo(), "EPS")
    for broken in (b"", b"hello", raw[:500], raw[:60] + b"\0" * 400, eps):
        with pytest.raises(InvalidData, match="cannot be decoded"):
            TASK.encode(broken, STUDENTS[0])
    with pytest.raises(InvalidData, match="427 x 640 pixels, this model takes exactly 10 x 10"):
        TASK.encode(raw, Preprocessing(size=(10, 10), resize=None, mean=(0.5,) * 3, std=(0.5,) * 3))
    with pytest.raises(InvalidData, match="kind F"):
        TASK.encode(as_bytes(photo(mode="F"), "TIFF"), STUDENTS[0])
    strip = as_bytes(Image.new("RGB", (1, 60_000)))
    with pytest.raises(InvalidData, match="4096 x 245760000 pixels"):
        TASK.encode(
            strip, Preprocessing(size=(9, 9), resize=4096, crop=True, mean=(0.5,) * 3, std=(0.5,) * 3)
        )
    monkeypatch.setattr(pixels, "MAX_PIXELS", 1000)
    with pytest.raises(InvalidData, match="640 x 427 pixels, at most 1000"):
        TASK.encode(raw, STUDENTS[0])


@pytest.mark.parametrize(
    ("config", "file", "named"),
    [
        ({}, {"image_processor_type": "TimmWrapperImageProcessor"}, "TimmWrapper"),
        ({}, {"image_processor_type": "MobileViTImageProcessor"}, "MobileViT"),
        ({"model_type": "vit"}, {"do_pad": True}, "do_pad"),
        ({"model_type": "vit"}, {"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"model_type": "vit"}, {"size": {"longest_edge": 30}}, "longest_edge"),
        ({"model_type": "vit"}, {"size": {"shortest_edge": 30, "longest_edge": 50}}, "longest_edge"),
        ({"model_type": "vit"}, {"size": {"shortest_edge": 30}}, "shortest edge"),
        ({"model_type": "vit"}, {"size": {"height": 10**9, "width": 3}}, "/size/0"),
        ({"model_type": "vit"}, {"resample": 17}, "/resample"),
        ({"model_type": "vit"}, {"image_mean": [0.1, 0.2]}, "image_mean"),
        ({"model_type": "vit"}, {"image_std": [0.1, 0.0, 0.1]}, "/std"),
        ({"model_type": "vit"}, {"image_std": "much"}, "/std"),
        ({"model_type": "convnext"}, {"size": {"height": 30, "width": 30}}, "ConvNext"),
        ({"model_type": "vit", "num_channels": 1}, {"image_mean": [0.1, 0.2, 0.3]}, "image_mean"),
        ({"model_type": "vit", "num_channels": 4}, None, "num_channels"),
        ({"model_type": "vit", "image_size": "big"}, None, "image_size"),
    ],
)
def test_a_processor_that_cannot_be_honored_is_refused_by_name(
    config: dict[str, Any], file: dict[str, Any] | None, named: str
) -> None:
    with pytest.raises(Invalid, match=named):
        TASK.imported_preprocessing(config, file, None)


def test_a_teacher_without_a_processor_sees_its_config_s_size_from_minus_one_to_one() -> None:
    found = TASK.imported_preprocessing({"num_channels": 1, "image_size": [24, 32]}, None, None)
    assert found == Preprocessing(channels=1, size=(24, 32), resize=(24, 32), mean=(0.5,), std=(0.5,))
    assert TASK.imported_preprocessing({}, None, None).size == (224, 224)
    gray = TASK.imported_preprocessing(
        {"num_channels": 1, "model_type": "vit"}, {"image_mean": [0.4] * 3, "image_std": 0.2}, None
    )
    assert (gray.mean, gray.std) == ((0.4,), (0.2,))


def test_an_onnx_teacher_sees_zero_to_one_unless_told_otherwise() -> None:
    color = Input(modality="image", shape=(3, 20, 30))
    found = TASK.imported_preprocessing({}, None, color)
    assert found == Preprocessing(size=(20, 30), resize=(20, 30), mean=(0.0,) * 3, std=(1.0,) * 3)
    told = TASK.imported_preprocessing({}, {"mean": [0.4] * 3, "resize": 25, "crop": True}, color)
    assert (told.mean, told.resize, told.size) == ((0.4,) * 3, 25, (20, 30))
    for said in ({"size": [8, 8], "resize": [8, 8]}, {"mean": [0.4]}, {"unknown": 1}, {"std": [0, 1, 1]}):
        with pytest.raises(Invalid):
            TASK.imported_preprocessing({}, said, color)
    with pytest.raises(Invalid, match="7 x 20 x 30"):
        TASK.imported_preprocessing({}, None, Input(modality="image", shape=(7, 20, 30)))


COLUMNS = {"image": Column(type="image"), "label": Column(type="category", counts={"a": 1})}


def test_the_student_takes_the_first_teachers_preprocessing_or_its_own_size() -> None:
    teacher = TASK.imported_preprocessing({"model_type": "deit"}, {}, None)
    assert (teacher.resize, teacher.size) == ((256, 256), (224, 224))
    stored = teacher.model_dump(mode="json")
    assert TASK.preprocessing(COLUMNS, ["image"], stored) == teacher
    smaller = ImageClassification(image_size=112).preprocessing(COLUMNS, ["image"], stored)
    assert (smaller.resize, smaller.size, smaller.crop, smaller.mean) == (
        (128, 128),
        (112, 112),
        True,
        teacher.mean,
    )
    gray = ImageClassification(image_size=(20, 30), channels=1).preprocessing(COLUMNS, ["image"], stored)
    assert (gray.channels, gray.size, gray.mean, gray.std) == (1, (20, 30), (0.5,), (0.5,))
    raw_pixels = TASK.imported_preprocessing({}, {"rescale": 1.0}, Input(modality="image", shape=(3, 20, 30)))
    own = TASK.preprocessing(COLUMNS, ["image"], raw_pixels.model_dump(mode="json"))
    assert (own.size, own.rescale, own.std) == ((20, 30), 1 / 255, (0.5,) * 3)
    assert TASK.preprocessing(COLUMNS, ["image"], None).size == (224, 224)
    assert TASK.parse_preprocessing(smaller.model_dump(mode="json")) == smaller


def test_the_one_image_column_is_found() -> None:
    assert TASK.input_columns(COLUMNS, "label") == ["image"]
    with pytest.raises(InvalidData, match="no column of images"):
        TASK.input_columns({"x": Column(type="number")}, None)
    with pytest.raises(InvalidData, match="2 image columns"):
        TASK.input_columns({"a": Column(type="image"), "b": Column(type="image")}, None)
    with pytest.raises(InvalidData, match="exactly one column of images"):
        TASK.preprocessing(COLUMNS, ["label"], None)


def test_answers_are_ranked_labels_with_probabilities() -> None:
    logits = np.array([[0.0, np.log(3.0), 0.0], [200.0, -200.0, 0.0]], np.float32)
    first, second = TASK.decode(logits, ["a", "b", "c"], top_k=2)
    assert first["label"] == "b"
    assert first["probability"] == pytest.approx(0.6)
    assert [one["label"] for one in first["top"]] == ["b", "a"]
    assert second["probability"] == 1.0
    assert len(TASK.decode(logits, ["a", "b", "c"], top_k=10)[0]["top"]) == 3
    json.dumps([first, second], allow_nan=False)
