"""The names of what a report measures, and which way is up."""

from collections.abc import Mapping
from typing import Final

CLASS: Final = "class"
NUMBER: Final = "number"

AGAINST_LABELS: Mapping[str, tuple[str, ...]] = {
    CLASS: ("accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss", "ece"),
    NUMBER: ("rmse", "mae", "r2"),
}
AGAINST_TEACHER: Mapping[str, tuple[str, ...]] = {CLASS: ("agreement", "kl"), NUMBER: ("rmse_to_teacher",)}
LOWER_IS_BETTER = frozenset({"log_loss", "ece", "kl", "rmse", "mae", "rmse_to_teacher"})
SHARES = frozenset({"accuracy", "macro_precision", "macro_recall", "macro_f1", "ece", "agreement"})  # of 1
MAY_BE_NEGATIVE = frozenset({"r2"})  # so that a ratio of two of them says nothing


def measures(answer: str) -> tuple[str, ...]:
    """Everything that the report says of a student whose answers are of this kind."""
    return (*AGAINST_LABELS[answer], *AGAINST_TEACHER[answer])
