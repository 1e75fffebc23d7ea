"""Values with their intervals, and what is resampled to find them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy

from app.catalog.base import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RESAMPLED_CELLS = 4_000_000  # rows times resamples that are counted at once
OF_CLASSES = "f1"  # the one metric that is given class by class, (C, R)


class Interval(Frozen):
    """A value and the 95 % percentile interval of its bootstrap; None: there is only one row to draw from."""

    value: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Sums(Protocol):
    """The rows of one run of one column."""

    n: int

    def __call__(self, counts: "Array") -> "dict[str, Array]":
        """The metrics by name, (R,), where row i stands counts[i, r] times in resample r; `f1` is (C, R)."""


@dataclass(frozen=True)
class Column:
    """What is resampled of one column: its runs, of which there is one a seed where seeds differ."""

    runs: Sequence[Sums]

    def __call__(self, counts: "Array", shares: "Mapping[int, Array]") -> "dict[str, Array]":
        """shares[S]: how much each of S runs counts in each resample, (S, R)."""
        found = [run(counts) for run in self.runs]
        if len(found) == 1:
            return found[0]
        weights = shares[len(found)]
        return {
            name: sum((one[name] * weight for one, weight in zip(found, weights, strict=True)), np.zeros(()))
            for name in found[0]
        }


def interval(value: float, drawn: "Array") -> Interval:
    if not len(drawn):
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value=value, low=float(low), high=float(high))


def resampled(columns: Mapping[str, Column], resamples: int, seed: int) -> "dict[str, dict[str, Array]]":
    """Each column's metrics over each resample of the rows, and of the seeds where there are several.

    (R,), and `f1` (C, R); R is 0 where there is only one row. One draw serves all columns: what two of them
    differ by is paired.
    """
    n = next(iter(columns.values())).runs[0].n
    several = {len(column.runs) for column in columns.values()} - {1}
    chance = np.random.default_rng((seed, 1))
    layout: list[tuple[str, str, int]] = []

    def statistic(drawn: "Array", axis: int = -1) -> "Array":  # noqa: ARG001  (scipy gives it)
        draws = len(drawn)
        cells = (drawn * draws + np.arange(draws)[:, None]).ravel()
        counts = np.bincount(cells, minlength=n * draws).reshape(n, draws).astype(np.float32)
        shares = {runs: chance.multinomial(runs, np.full(runs, 1 / runs), draws).T / runs for runs in several}
        found = [
            (name, metric, np.atleast_2d(values))
            for name, column in columns.items()
            for metric, values in column(counts, shares).items()
        ]
        layout[:] = [(name, metric, len(values)) for name, metric, values in found]
        return np.concatenate([values for *_, values in found])

    if n == 1:
        statistic(np.zeros((1, 1), np.int64))
        distribution = np.empty((sum(size for *_, size in layout), 0))
    else:
        distribution = scipy.stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=resamples,
            batch=max(1, RESAMPLED_CELLS // n),
            vectorized=True,
            method="percentile",
            rng=seed,
        ).bootstrap_distribution
    return {name: {} for name in columns} | _laid_out(distribution, layout)


def _laid_out(distribution: "Array", layout: Sequence[tuple[str, str, int]]) -> "dict[str, dict[str, Array]]":
    drawn: dict[str, dict[str, Array]] = {name: {} for name, *_ in layout}
    start = 0
    for name, metric, size in layout:
        part = distribution[start : start + size]
        drawn[name][metric] = part if metric == OF_CLASSES else part[0]
        start += size
    return drawn
