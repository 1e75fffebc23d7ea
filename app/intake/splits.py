"""Which row goes where, and which rows stand in two places."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from app.intake.profile import Leak, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW_ROWS = 10  # of a class; fewer cannot be divided into shares


def divide(
    hashes: "NDArray[np.uint64]", labels: "NDArray[np.int32]", shares: Sequence[float], seed: int
) -> "NDArray[np.int64]":
    """For each row (N,) the place in `shares` of the split that it goes to; shares sum to 1.

    Each class is divided alike. The order is a function of content and seed alone, and rows with equal inputs
    go to the same split, so that a division leaks nothing.
    """
    import numpy as np

    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.lexsort((_mixed(distinct, seed), labels[first]))
    of_class = np.unique(labels[first][order], return_index=True, return_counts=True)
    bounds = np.cumsum(shares)[:-1]
    target = np.empty(len(distinct), np.int64)
    for _, start, count in zip(*of_class, strict=True):
        cuts = np.floor(bounds * count + 0.5)
        target[order[start : start + count]] = np.searchsorted(cuts, np.arange(count), side="right")
    return np.asarray(target[inverse], np.int64)


def unlike(labels: "NDArray[np.int32]") -> "NDArray[np.int32]":
    """Labels that are numbers, as classes to divide by: all one where hardly any number comes again."""
    import numpy as np

    labeled = labels >= 0
    often = labeled.sum() >= FEW_ROWS * len(np.unique(labels[labeled]))
    return labels if often else np.where(labeled, 0, labels).astype(np.int32)


def duplicates(hashes: "NDArray[np.uint64]") -> int:
    """Rows that equal an earlier one."""
    import numpy as np

    return len(hashes) - len(np.unique(hashes))


def leaks(hashes: "Mapping[Split, NDArray[np.uint64]]") -> list[Leak]:
    """For each pair of splits with any, the rows of the second that stand in the first too."""
    import numpy as np

    found = []
    for one, other in combinations(hashes, 2):
        rows = int(np.isin(hashes[other], hashes[one]).sum())
        if rows:
            found.append(Leak(splits=(one, other), rows=rows))
    return found


def _mixed(hashes: "NDArray[np.uint64]", seed: int) -> "NDArray[np.uint64]":
    """A different order for each seed: SplitMix64's finalizer (Steele et al., 2014), one to one."""
    import numpy as np

    value = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
