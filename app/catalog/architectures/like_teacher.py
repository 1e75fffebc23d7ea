"""The teacher's own configuration, for born-again students (Furlanello et al., 2018)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from app.catalog.base import Architecture, Input, discover, parse
from app.catalog.huggingface import Depth, Family, classifier, shows
from app.errors import Fault, Invalid, shown

if TYPE_CHECKING:
    from torch import nn

_CONVOLUTIONAL = {"bit", "efficientnet", "mobilenet_v1", "mobilenet_v2", "regnet", "resnet"}
_PLAIN_LAYERS = {  # attention of four linear maps, two more of them and two norms, and layers all alike
    "bert", "camembert", "data2vec-text", "deit", "distilbert", "electra", "ernie", "mpnet", "roberta", "vit",
    "xlm-roberta",
}  # fmt: skip
_SHARED_LAYERS = {"albert"}
_OF_THE_WEIGHTS = {  # what a config.json says of the teacher's file, labels and code, not of its shape
    "_name_or_path", "auto_map", "dtype", "id2label", "label2id", "num_labels", "problem_type",
    "quantization_config", "torch_dtype", "transformers_version",
}  # fmt: skip


class LikeTeacher(Family):
    """The teacher's own architecture, whatever its family, with fresh weights: it can even exceed it."""

    kind: Literal["like_teacher"] = "like_teacher"
    layers: Depth | None = Field(
        None, description="of a transformer: how many of its layers the student has; None: all"
    )
    config_of_teacher: SkipJsonSchema[dict[str, Any] | None] = None
    parameters_of_teacher: SkipJsonSchema[int] = 0  # with so many layers

    def __hash__(self) -> int:
        """A form is compared and kept in sets, and this one holds an object of JSON."""
        return hash(self.model_dump_json())

    @property
    def quantization(self) -> Literal["static", "dynamic"]:  # type: ignore[override]
        return "static" if self._teacher["model_type"] in _CONVOLUTIONAL else "dynamic"

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        return shows(self._teacher)

    @property
    def modality(self) -> Literal["image", "text"]:  # type: ignore[override]
        return "text" if "vocab_size" in self._teacher else "image"

    @property
    def _teacher(self) -> dict[str, Any]:
        assert self.config_of_teacher is not None, "resolve() comes first"
        return self.config_of_teacher

    def resolve(self, teacher: Mapping[str, Any] | None, parameters: int) -> Architecture:
        name = teacher and (
            teacher.get("model_type") or teacher.get("kind")
        )  # the latter: a family of our own
        if not teacher or not name:
            fault = Fault(
                "/student/architecture/kind", "no_configuration", "like_teacher", "choose another family"
            )
            raise Invalid(
                "No first teacher has a config.json that a student could copy; a black box has none",
                fault,
            )
        config = {key: value for key, value in teacher.items() if key not in _OF_THE_WEIGHTS}
        if self.layers is not None:
            config, parameters = _thinner(config, parameters, str(name), self.layers)
        family = discover("app.catalog.architectures", Architecture).get(name)
        if family is not None and family.format != "huggingface":
            said = {field: teacher[field] for field in family.model_fields if field in teacher}
            return parse(family, said, "The teacher's config.json is not valid")
        return self.model_copy(update={"config_of_teacher": config, "parameters_of_teacher": parameters})

    def accepts(self, input: Input) -> str | None:
        """A text is cut to what the teacher reads, so it always fits."""
        if input.modality != self.modality:
            return self.stranger(input)
        return self._misfit(*input.shape) if input.modality == "image" else None

    def parameters(self, input: Input, classes: int) -> int:
        """The teacher's own count: its input and its labels are the student's."""
        return self.parameters_of_teacher

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        config = {name: value for name, value in self._teacher.items() if name != "model_type"}
        if self.modality == "text":
            config["pad_token_id"] = input.pad
        return classifier(self._teacher["model_type"], config, labels, self.modality)

    def _misfit(self, channels: int, height: int, width: int) -> str | None:
        shown_to_teacher = self._teacher.get("num_channels", 3)
        if channels != shown_to_teacher:
            found = f"the teacher sees {shown_to_teacher} channels, this student {channels}"
            return f"{found}; leave task.channels out"
        size = self._teacher.get("image_size", [height, width])
        seen = tuple(size) if isinstance(size, list) else (size, size)
        if seen == (height, width):
            return None
        found = f"the teacher sees {seen[0]} x {seen[1]} pixels, this student {height} x {width}"
        return f"{found}; leave task.image_size out"


def _thinner(config: dict[str, Any], parameters: int, family: str, layers: int) -> tuple[dict[str, Any], int]:
    """The config with fewer layers, and what is then left of the learned numbers. Raises Invalid."""
    key = "n_layers" if "n_layers" in config else "num_hidden_layers"
    hidden, inner = (config.get(one, config.get(other)) for one, other in _WIDTHS)
    count = config.get(key)
    known = family in _PLAIN_LAYERS | _SHARED_LAYERS
    if not (known and isinstance(count, int) and isinstance(hidden, int) and isinstance(inner, int)):
        fix = f"leave `layers` out, or choose a family of {', '.join(sorted(_PLAIN_LAYERS))}"
        raise _unfit(f"the layers of the teacher's family, {shown(family)}, cannot be counted here", fix)
    if layers > count:
        raise _unfit(f"the teacher has {count} layers, not {layers}", f"order at most {count}")
    layer = 4 * (hidden + 1) * hidden + 2 * hidden * inner + inner + hidden + 4 * hidden
    layer -= 0 if config.get("qkv_bias", True) else 3 * hidden
    left_out = 0 if family in _SHARED_LAYERS else (count - layers) * layer
    return {**config, key: layers}, parameters - left_out


_WIDTHS = (("hidden_size", "dim"), ("intermediate_size", "hidden_dim"))


def _unfit(detail: str, fix: str) -> Invalid:
    fault = Fault("/student/architecture/layers", "unsupported", detail, fix)
    return Invalid(f"{detail[:1].upper()}{detail[1:]}; {fix}", fault)
