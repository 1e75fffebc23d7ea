"""What one row costs a student, counted without torch: so a spec is weighed before anything is built.

Estimates: the large terms of each family in closed form. Operations are multiplications and additions, two
for each weight at each place; numbers are those that a forward keeps for the way back.
"""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Work:
    """Of one row's forward."""

    operations: int
    numbers: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.numbers + other.numbers)

    def __mul__(self, times: int) -> "Work":
        return Work(self.operations * times, self.numbers * times)


NOTHING = Work(0, 0)


def mapped(weights: int, width: int, places: int) -> Work:
    """A linear map or a convolution: `width` numbers come out at each place, and its norm keeps as many."""
    return Work(2 * weights * places, 2 * width * places)


def transformer_layer(width: int, inner: int, heads: int, tokens: int) -> Work:
    """Attention of every token to every other, then two linear maps."""
    maps = Work(2 * (4 * width * width + 2 * width * inner) * tokens, (10 * width + 2 * inner) * tokens)
    return maps + Work(4 * tokens * tokens * width, 2 * heads * tokens * tokens)


def by_size(parameters: int, shape: tuple[int, ...]) -> Work:
    """Of a family that is known by its size only: every weight at every token, or square of 16 pixels."""
    places = shape[0] if len(shape) == 1 else max(1, prod(shape[1:]) // 256)
    return Work(2 * parameters * places, int(parameters**0.5) * 100 * places)
