"""What a Hugging Face preprocessor_config.json means, in our own schema."""

from collections.abc import Mapping
from typing import Any

from app.catalog.base import parse
from app.catalog.tasks.image_classification.preprocessing import RESAMPLE, Preprocessing, plain_form
from app.errors import Fault, Invalid

_HALF = ([0.5] * 3, [0.5] * 3)
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
# What transformers' processors do where their file is silent: size, edge of the crop, resample, (mean, std).
# A bare number as size means a square where the first entry is a pair, else a shortest edge.
_PROCESSORS: dict[str, tuple[tuple[int, int] | int, int | None, str, tuple[list[float], list[float]]]] = {
    "ViT": ((224, 224), None, "bilinear", _HALF),
    "DeiT": ((256, 256), 224, "bicubic", _HALF),
    "Beit": ((224, 224), None, "bicubic", _HALF),
    "Pvt": ((224, 224), None, "bicubic", _IMAGENET),
    "ConvNext": (384, None, "bicubic", _HALF),
    "MobileNetV1": (256, 224, "bilinear", _HALF),
    "MobileNetV2": (256, 224, "bilinear", _HALF),
    "Bit": (224, 224, "bicubic", _CLIP),
    "CLIP": (224, 224, "bicubic", _CLIP),
}
_OF_FAMILIES = {
    "ViT": ("vit", "vit_msn", "ijepa", "swin", "swinv2"),
    "DeiT": ("deit",),
    "Beit": ("beit", "data2vec-vision"),
    "Pvt": ("pvt", "pvt_v2"),
    "ConvNext": ("resnet", "regnet", "convnext", "convnextv2", "cvt"),
    "MobileNetV1": ("mobilenet_v1",),
    "MobileNetV2": ("mobilenet_v2",),
    "Bit": ("bit", "dinov2", "focalnet", "hiera"),
    "CLIP": ("clip",),
}
_FAMILIES = {family: name for name, families in _OF_FAMILIES.items() for family in families}
_KNOWN = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
_KNOWN |= {"do_reduce_labels"}  # of segmentation: it leaves images alone


def preprocessing(config: Mapping[str, Any], file: Mapping[str, Any] | None) -> Preprocessing:
    """The preprocessing of a folder with this config.json and preprocessor_config.json (None: there is none).

    Without a file images are squeezed to the config's image_size, 224 unless it says otherwise, with values
    from -1 to 1, as ViTImageProcessor does it. Raises Invalid naming the key that cannot be honored.
    """
    channels = config.get("num_channels", 3)
    if channels not in (1, 3):
        raise Invalid(f"config.json says num_channels {str(channels)[:20]}; images have 1 or 3 channels here")
    if file is None:
        return parse(
            Preprocessing,
            plain_form(channels, _edges(config.get("image_size", 224), "image_size")),
            "config.json cannot be honored",
        )
    form = _steps(config, file)
    scale = {key: _a_channel(form[key], channels, f"image_{key}") for key in ("mean", "std")}
    return parse(
        Preprocessing, form | {"channels": channels} | scale, "preprocessor_config.json cannot be honored"
    )


def _steps(config: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """The form that a preprocessor_config.json means, its channels not yet decided."""
    name = str(
        file.get("image_processor_type")
        or file.get("feature_extractor_type")
        or _FAMILIES.get(str(config.get("model_type")), "")
    )
    name = (
        name.removesuffix("Fast")
        .removesuffix("Pil")
        .removesuffix("ImageProcessor")
        .removesuffix("FeatureExtractor")
    )
    if name not in _PROCESSORS:
        known = ", ".join(f"{one}ImageProcessor" for one in _PROCESSORS)
        raise Invalid(
            f"preprocessor_config.json names the processor {name[:60]!r}, whose steps are not known here",
            Fault("/image_processor_type", "unsupported", name[:60], f"save it as one of {known}"),
        )
    size, crop, resample, (mean, std) = _PROCESSORS[name]
    said = {key: value for key, value in file.items() if value is not None}
    for key in sorted(said):
        if key.startswith("do_") and key not in _KNOWN and said[key]:
            raise Invalid(
                f"preprocessor_config.json asks for {key[:60]}, which is not done here",
                Fault(f"/{key[:60]}", "unsupported", key[:60]),
            )
    form: dict[str, Any] = {
        "rescale": said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0,
        "mean": said.get("image_mean", mean) if said.get("do_normalize", True) else 0.0,
        "std": said.get("image_std", std) if said.get("do_normalize", True) else 1.0,
        "resample": _resample(said.get("resample", resample)),
        "resize": _edges(said.get("size", size), "size", square=isinstance(size, tuple))
        if said.get("do_resize", True)
        else None,
        "crop": bool(said.get("do_center_crop", crop is not None)),
    }
    if name == "ConvNext" and form["resize"] is not None:
        return form | _of_convnext(form["resize"], said.get("crop_pct", 224 / 256), form["crop"])
    if form["crop"]:
        return form | {"size": _edges(said.get("crop_size", crop or 224), "crop_size")}
    if isinstance(form["resize"], int):
        fault = Fault(
            "/size/shortest_edge",
            "unsupported",
            str(form["resize"]),
            "add do_center_crop and crop_size, or give height and width",
        )
        raise Invalid(
            "preprocessor_config.json resizes to a shortest edge without a crop: shapes would differ", fault
        )
    seen = config.get("image_size", said.get("size", 224))
    return form | {"size": form["resize"] or _edges(seen, "image_size")}


def _of_convnext(edge: Any, crop_pct: Any, crop: bool) -> dict[str, Any]:
    """ConvNextImageProcessor crops `crop_pct` from the middle below 384 pixels and squeezes from 384 on."""
    if not isinstance(edge, int) or crop or not isinstance(crop_pct, float | int) or not 0 < crop_pct <= 1:
        fault = Fault(
            "/size",
            "unsupported",
            str(edge)[:60],
            "give size.shortest_edge, a crop_pct up to 1, and no do_center_crop",
        )
        raise Invalid(
            "preprocessor_config.json of a ConvNextImageProcessor cannot be honored as it stands", fault
        )
    small = edge < 384
    return {"size": (edge, edge), "resize": int(edge / crop_pct) if small else (edge, edge), "crop": small}


def _edges(value: Any, key: str, square: bool = True) -> Any:
    """A size in any of transformers' spellings, as (height, width) or as a shortest edge."""
    if isinstance(value, Mapping):
        value = {name: edge for name, edge in value.items() if edge is not None}
    match value:
        case {"height": height, "width": width, **rest} if not rest:
            return height, width
        case {"shortest_edge": int(edge), **rest} if not rest:
            return edge
        case int() if not isinstance(value, bool):
            return (value, value) if square else value
        case [height, width]:
            return height, width
    fault = Fault(f"/{key}", "unsupported", str(value)[:100], "give height and width, or shortest_edge alone")
    raise Invalid(f"{key} {str(value)[:100]} cannot be honored", fault)


def _resample(value: Any) -> Any:
    return RESAMPLE[value] if isinstance(value, int) and 0 <= value < len(RESAMPLE) else value


def _a_channel(value: Any, channels: int, key: str) -> Any:
    """One number a channel; three equal ones serve a gray model as one."""
    if isinstance(value, int | float):
        return [value] * channels
    if isinstance(value, list) and len(value) == 3 and channels == 1 and value[0] == value[1] == value[2]:
        return value[:1]
    if isinstance(value, list) and len(value) != channels:
        fault = Fault(f"/{key}", "shape_mismatch", str(value)[:100], f"give {channels} numbers")
        raise Invalid(f"{key} has {len(value)} numbers, config.json says num_channels {channels}", fault)
    return value
