"""How good outputs are where they stand for numbers: errors in the unit of the data, by scikit-learn."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.engine.judging.classes import ClassScore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class OfNumbers:
    """Judges outputs (n, 1) by labels (n,), and by a teacher's outputs (n, 1).

    in_units: what makes of the outputs and labels of the job those of the data.
    """

    imitation = "rmse_to_teacher"

    def __init__(self, in_units: "Callable[[Array], Array]") -> None:
        self._in_units = in_units

    def truth(self, logits: "Array", labels: "Array") -> dict[str, float]:
        """r2 of labels that are all the same is 0, of a lone one it is left out."""
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        wanted, found = self._read(labels), self._read(logits)
        metrics = {
            "rmse": float(root_mean_squared_error(wanted, found)),
            "mae": float(mean_absolute_error(wanted, found)),
        }
        return metrics | ({"r2": float(r2_score(wanted, found))} if len(wanted) > 1 else {})

    def likeness(self, logits: "Array", teacher: "Array") -> dict[str, float]:
        from sklearn.metrics import root_mean_squared_error

        return {self.imitation: float(root_mean_squared_error(self._read(teacher), self._read(logits)))}

    def sums(self, logits: "Array", labels: "Array | None", teacher: "Array | None") -> "_Sums":
        wanted = None if labels is None else self._read(labels)
        return _Sums(self._read(logits), wanted, None if teacher is None else self._read(teacher))

    def apart(self, logits: "Array", teacher: "Array") -> "Array":
        """The absolute difference of each row, (n,), in the data's unit."""
        apart: Array = np.abs(self._read(logits) - self._read(teacher))
        return apart

    def classes(
        self, runs: "Sequence[Array]", labels: "Array", names: Sequence[str], drawn: "dict[str, Array]"
    ) -> list[ClassScore]:
        """Numbers have none."""
        return []

    def _read(self, outputs: "Array") -> "Array":
        """(n,) in float64 and the data's unit."""
        return np.asarray(self._in_units(outputs.astype(np.float64).reshape(len(outputs))))


class _Sums:
    """Squared and absolute errors, and the labels' moments; their sums over a resample give its metrics."""

    def __init__(self, found: "Array", wanted: "Array | None", teacher: "Array | None") -> None:
        self.n, self._wanted = len(found), None
        self._teacher = None if teacher is None else np.square(found - teacher)
        if wanted is not None:
            self._wanted = wanted - wanted.mean()  # so that large means cost r2 no digits
            self._squares, self._absolutes = np.square(found - wanted), np.abs(found - wanted)

    def __call__(self, counts: "Array") -> "dict[str, Array]":
        metrics: dict[str, Array] = {}
        if self._wanted is not None:
            squares = self._squares @ counts
            spread = np.square(self._wanted) @ counts - np.square(self._wanted @ counts) / self.n
            defined = spread > 1e-12 * (np.square(self._wanted).sum() + 1e-300)
            explained = np.where(defined, 1 - squares / np.where(defined, spread, 1.0), 0.0)
            metrics = {
                "rmse": np.sqrt(squares / self.n),
                "mae": self._absolutes @ counts / self.n,
                "r2": explained,
            }
        if self._teacher is not None:
            metrics[OfNumbers.imitation] = np.sqrt(self._teacher @ counts / self.n)
        return metrics
