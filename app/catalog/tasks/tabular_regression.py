"""Rows of a table to one number each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, PositiveFloat

from app.catalog.base import Column, Frozen
from app.catalog.tabular import Preprocessing, TabularTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Target(Frozen):
    """The unit of a model's output: what it puts out is (value - mean) / std."""

    mean: FiniteFloat = 0.0
    std: PositiveFloat = 1.0


class RegressionPreprocessing(Preprocessing):
    """With the unit that the model answers in; a black box answers in the data's own unless it is said."""

    target: Target = Field(Target(), description="of the column that the model answers")


class TabularRegression(TabularTask):
    """Tell a number, such as a price or a duration, from a row of numbers and categories.

    The student learns the target in units of its standard deviation over the labeled training rows, and
    answers in the data's own.
    """

    answer: ClassVar[Literal["class", "number"]] = "number"
    metric: ClassVar[str] = "rmse"
    own_loss: ClassVar[str] = "task"
    form: ClassVar[type[Preprocessing]] = RegressionPreprocessing

    kind: Literal["tabular_regression"] = "tabular_regression"

    def with_target(self, preprocessing: Any, target: Column) -> RegressionPreprocessing:
        """A target that is the same in all rows, or in none, has no deviation: 1 stands for it."""
        found = Target(mean=target.mean or 0.0, std=target.std or 1.0)
        aimed: RegressionPreprocessing = preprocessing.model_copy(update={"target": found})
        return aimed

    def imitation(self, temperature: float) -> dict[str, Any]:
        """A number has no temperature."""
        return {"kind": "logit_mse", "center": False}

    def in_units(self, logits: Any, preprocessing: Any) -> Any:
        return logits * preprocessing.target.std + preprocessing.target.mean

    def standardized(self, values: Any, preprocessing: Any) -> Any:
        return (values - preprocessing.target.mean) / preprocessing.target.std

    def decode(
        self, logits: "NDArray[np.float32]", labels: Sequence[str], *, top_k: int
    ) -> list[dict[str, Any]]:
        return [{"value": float(row[0])} for row in logits]
