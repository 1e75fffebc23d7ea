"""The teacher's own configuration, for born-again students (Furlanello et al., 2018)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic.json_schema import SkipJsonSchema

from app.catalog.base import Architecture, Input, discover, parse
from app.catalog.huggingface import ImageFamily, classifier
from app.errors import Fault, Invalid

if TYPE_CHECKING:
    from torch import nn

_CONVOLUTIONAL = {"bit", "efficientnet", "mobilenet_v1", "mobilenet_v2", "regnet", "resnet"}
_OF_THE_WEIGHTS = {  # what a config.json says of the teacher's file, labels and code, not of its shape
    "_name_or_path", "auto_map", "dtype", "id2label", "label2id", "num_labels", "problem_type",
    "quantization_config", "torch_dtype", "transformers_version",
}  # fmt: skip


class LikeTeacher(ImageFamily):
    """The teacher's own architecture, whatever its family, with fresh weights: it can even exceed it."""

    kind: Literal["like_teacher"] = "like_teacher"
    config_of_teacher: SkipJsonSchema[dict[str, Any] | None] = None
    parameters_of_teacher: SkipJsonSchema[int] = 0

    @property
    def quantization(self) -> Literal["static", "dynamic"]:  # type: ignore[override]
        return "static" if self._teacher["model_type"] in _CONVOLUTIONAL else "dynamic"

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
                "The first teacher is a black box without a config.json that a student could copy", fault
            )
        family = discover("app.catalog.architectures", Architecture).get(name)
        if family is not None and family.format != "huggingface":
            said = {field: teacher[field] for field in family.model_fields if field in teacher}
            return parse(family, said, "The teacher's config.json is not valid")
        config = {name: value for name, value in teacher.items() if name not in _OF_THE_WEIGHTS}
        return self.model_copy(update={"config_of_teacher": config, "parameters_of_teacher": parameters})

    def misfit(self, height: int, width: int) -> str | None:
        size = self._teacher.get("image_size", [height, width])
        seen = tuple(size) if isinstance(size, list) else (size, size)
        if seen == (height, width):
            return None
        found = f"the teacher sees {seen[0]} x {seen[1]} pixels, this student {height} x {width}"
        return f"{found}; leave task.image_size out"

    def accepts(self, input: Input) -> str | None:
        channels = self._teacher.get("num_channels", 3)
        if input.modality == "image" and channels != input.shape[0]:
            found = f"the teacher sees {channels} channels, this student {input.shape[0]}"
            return f"{found}; leave task.channels out"
        return super().accepts(input)

    def parameters(self, input: Input, classes: int) -> int:
        """The teacher's own count: its input and its labels are the student's."""
        return self.parameters_of_teacher

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        config = {name: value for name, value in self._teacher.items() if name != "model_type"}
        return classifier(self._teacher["model_type"], config, labels)
