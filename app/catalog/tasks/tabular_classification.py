"""Rows of a table to one label each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from app.catalog.answers import ranked
from app.catalog.tabular import TabularTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TabularClassification(TabularTask):
    """Tell which one of several classes a row of numbers and categories belongs to."""

    kind: Literal["tabular_classification"] = "tabular_classification"

    def decode(
        self, logits: "NDArray[np.float32]", labels: Sequence[str], *, top_k: int
    ) -> list[dict[str, Any]]:
        return ranked(logits, labels, top_k)
