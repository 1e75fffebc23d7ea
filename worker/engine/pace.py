"""How often a checkpoint is saved."""

from collections.abc import Callable

SHARE = 0.05  # of the training time that saving may take


class Pace:
    """When to save: not more often than every `least_s`, and for SHARE of the time since this began.

    What the next one takes is taken to be what the last one took. spent: seconds that the `saves` took.
    """

    def __init__(self, least_s: float, clock: Callable[[], float]) -> None:
        self._least_s, self._clock = least_s, clock
        self._begun = self._saved = clock()
        self.spent = self._last = 0.0
        self.saves = 0

    def due(self) -> bool:
        now = self._clock()
        affordable = self.spent + self._last <= SHARE * (now - self._begun - self.spent)
        return affordable and now - self._saved >= self._least_s

    def saved(self, since: float) -> None:
        self._saved = self._clock()
        self._last = self._saved - since
        self.spent += self._last
        self.saves += 1
