"""What all tasks over the rows of a table share: which columns they read, and how a row becomes numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from app.catalog.base import Column, Frozen, Input, Task, parse
from app.catalog.labels import label_name, ordered
from app.errors import Fault, Invalid, InvalidData, ShapeMismatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FEATURES = 100_000


class Feature(Frozen):
    """One column. A number becomes (value - mean) / std, missing: 0; a category one 0 or 1 a known value."""

    name: str = Field(
        max_length=1000, description="of the column; empty while the teacher's file does not say it"
    )
    kind: Literal["number", "category"] = "number"
    mean: float = 0.0
    std: PositiveFloat = 1.0
    values: tuple[str, ...] = Field((), description="of a category, in order; any other value is all zeros")

    @property
    def width(self) -> int:
        return len(self.values) if self.kind == "category" else 1


class Preprocessing(Frozen):
    """How a row, a mapping from column to value, becomes a model's input: its features side by side."""

    features: tuple[Feature, ...] = Field(min_length=1, max_length=MAX_FEATURES)

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        names = [feature.name for feature in self.features if feature.name]
        if len(set(names)) < len(names):
            raise ValueError("a column may stand here once only")
        return self


class TabularTask(Task):
    """A task over rows; `form` is its preprocessing."""

    modality: ClassVar[Literal["image", "vector"]] = "vector"
    form: ClassVar[type[Preprocessing]] = Preprocessing

    def input_columns(self, columns: Mapping[str, Column], label: str | None) -> list[str]:
        found = [name for name, column in columns.items() if name != label and _readable(column)]
        if not found:
            kinds = ", ".join(f"{name} ({column.type})" for name, column in list(columns.items())[:10])
            fault = Fault(
                "/data/train", "no_columns", kinds, "upload columns of numbers or of few distinct values"
            )
            raise InvalidData(
                f"The data has no column of numbers or categories beside its label: {kinds}", fault
            )
        return found

    def preprocessing(
        self, columns: Mapping[str, Column], inputs: Sequence[str], teacher: Mapping[str, Any] | None
    ) -> Preprocessing:
        features = []
        for place, name in enumerate(inputs):
            column = columns[name]
            if not _readable(column):
                fault = Fault(
                    f"/data/columns/input/{place}", "unreadable", column.type, "leave this column out"
                )
                raise InvalidData(f"Column {name[:100]!r} holds {column.type} that cannot be numbered", fault)
            if column.type == "number":
                features.append(Feature(name=name, mean=column.mean or 0.0, std=column.std or 1.0))
            else:
                features.append(
                    Feature(name=name, kind="category", values=tuple(ordered(column.counts or {})))
                )
        return self.form(features=tuple(features))

    def parse_preprocessing(self, value: Mapping[str, Any]) -> Preprocessing:
        return parse(self.form, value, "The preprocessing is not valid")

    def imported_preprocessing(
        self, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, input: Input | None
    ) -> Preprocessing:
        if input is not None and (input.modality != "vector" or len(input.shape) != 1):
            shape = " x ".join(map(str, input.shape))
            raise Invalid(
                f"The ONNX file takes an input of {shape}; a task over tables needs one row of numbers"
            )
        if preprocessor is not None:
            preprocessing = self.parse_preprocessing(preprocessor)
        elif input is not None and input.shape[0] <= MAX_FEATURES:
            preprocessing = self.form(features=(Feature(name=""),) * input.shape[0])
        else:
            raise Invalid(
                "A tabular teacher needs its preprocessing.json; pack it with config.json and the weights"
            )
        if input is not None and self.input(preprocessing) != input:
            width = self.input(preprocessing).shape[0]
            fault = Fault(
                "/preprocessing/features", "shape_mismatch", str(width), f"describe {input.shape[0]} numbers"
            )
            raise Invalid(
                f"The preprocessing gives {width} numbers, the ONNX file takes {input.shape[0]}", fault
            )
        return preprocessing

    def bind(
        self, preprocessing: Preprocessing, columns: Mapping[str, Column], inputs: Sequence[str]
    ) -> Preprocessing:
        """Names the features of a teacher that came without: the input columns, numbers all, in order."""
        if all(feature.name for feature in preprocessing.features):
            if missing := [feature.name for feature in preprocessing.features if feature.name not in columns]:
                fault = Fault(
                    "/data/train", "missing_columns", _shown(missing), "upload the data with these columns"
                )
                raise ShapeMismatch(
                    f"The teacher reads columns that the data lacks: {_shown(missing)}", fault
                )
            return preprocessing
        if others := [name for name in inputs if columns[name].type != "number"]:
            fault = Fault(
                "/data/columns/input",
                "not_numbers",
                _shown(others),
                "name the columns of numbers, in the teacher's order",
            )
            raise ShapeMismatch(
                f"The teacher reads unnamed numbers; these columns are none: {_shown(others)}", fault
            )
        if len(inputs) != len(preprocessing.features):
            fault = Fault(
                "/data/columns/input",
                "shape_mismatch",
                f"{len(inputs)} columns",
                "name the teacher's columns, in its order",
            )
            raise ShapeMismatch(
                f"The teacher reads {len(preprocessing.features)} numbers, the data gives {len(inputs)}",
                fault,
            )
        named = (
            feature.model_copy(update={"name": name})
            for feature, name in zip(preprocessing.features, inputs, strict=True)
        )
        return preprocessing.model_copy(update={"features": tuple(named)})

    def sidecars(self, preprocessing: Preprocessing) -> dict[str, Any]:
        return {"preprocessing.json": preprocessing.model_dump(mode="json")}

    def input(self, preprocessing: Preprocessing) -> Input:
        return Input(modality="vector", shape=(sum(feature.width for feature in preprocessing.features),))

    def encode(self, raw: Mapping[str, Any], preprocessing: Preprocessing) -> "NDArray[np.float32]":
        """None is a missing value; a column that is not there is an error; more columns do no harm."""
        import numpy as np

        if missing := [feature.name for feature in preprocessing.features if feature.name not in raw]:
            known = {feature.name for feature in preprocessing.features}
            strange = [str(name) for name in raw if name not in known]
            hint = (
                f"; it has unknown ones: {_shown(strange)}"
                if strange
                else "; give null for a value that is not known"
            )
            raise InvalidData(f"The row lacks the columns {_shown(missing)}{hint}")
        numbers: list[float] = []
        for feature in preprocessing.features:
            numbers += _encoded(raw[feature.name], feature)
        return np.array(numbers, np.float32)

    def normalize(self, encoded: Any, preprocessing: Preprocessing) -> Any:
        """Encoded features are the model's input already."""
        return encoded


def _readable(column: Column) -> bool:
    return column.type == "number" or (column.type == "category" and bool(column.counts))


def _encoded(value: Any, feature: Feature) -> list[float]:
    if feature.kind == "category":
        if isinstance(value, dict | list):
            raise InvalidData(f"Column {feature.name[:100]!r} needs one value, not a {type(value).__name__}")
        name = label_name(value)
        return [float(name == known) for known in feature.values]
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return [0.0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidData(f"Column {feature.name[:100]!r} needs a number or null, not {str(value)[:40]!r}")
    number = (value - feature.mean) / feature.std if -1e300 < value < 1e300 else math.inf
    if not abs(number) < 3e38:
        raise InvalidData(f"Column {feature.name[:100]!r}: {str(value)[:40]} is out of range")
    return [number]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(name[:100] for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )
