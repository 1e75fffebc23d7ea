"""What the logits of a classifier say, in the words of /predict."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def ranked(logits: "NDArray[np.float32]", labels: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """One answer a row of logits (B, C): the likeliest label, its probability, the `top_k` in order."""
    import numpy as np

    logits = logits.astype(np.float64)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = odds / odds.sum(-1, keepdims=True)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    answers = []
    for row, places in zip(probabilities, order, strict=True):
        top = [{"label": labels[place], "probability": float(row[place])} for place in places]
        answers.append({**top[0], "top": top})
    return answers
