"""How good logits are where they stand for classes: values by scikit-learn.

A metric is a function of sums over rows, and the sums over all resamples are one matrix product.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its parts are imported at their first use, as scikit-learn is: a second of an attempt's start

from app.catalog.base import Frozen
from worker.engine.judging.intervals import OF_CLASSES, Interval, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BINS = 15  # of confidence, for the expected calibration error (Guo et al., 2017)


class ClassScore(Frozen):
    """One class in one column. n: rows that have this label. Of several seeds the means."""

    label: str
    n: int
    precision: float
    recall: float
    f1: Interval


class OfClasses:
    """Judges logits (n, C) by labels (n,), and by a teacher's logits (n, C)."""

    imitation = "agreement"  # what stands for all where no row has a label

    def truth(self, logits: "Array", labels: "Array") -> dict[str, float]:
        return truth_metrics(logits, labels)

    def likeness(self, logits: "Array", teacher: "Array") -> dict[str, float]:
        return imitation_metrics(logits, teacher)

    def sums(self, logits: "Array", labels: "Array | None", teacher: "Array | None") -> "_Sums":
        return _Sums(logits, labels, teacher)

    def apart(self, logits: "Array", teacher: "Array") -> "Array":
        """KL(teacher ; student) of each row, (n,), in nats."""
        return _kl(logits, teacher)

    def wrong(self, logits: "Array", labels: "Array") -> "Array":
        return np.asarray(logits.argmax(-1) != labels)

    def alike(self, logits: "Array", teacher: "Array") -> "Array":
        return np.asarray(logits.argmax(-1) == teacher.argmax(-1))

    def classes(
        self, runs: "Sequence[Array]", labels: "Array", names: Sequence[str], drawn: "dict[str, Array]"
    ) -> list[ClassScore]:
        """The classes that occur, worst F1 first."""
        from sklearn.metrics import precision_recall_fscore_support

        found = [
            precision_recall_fscore_support(
                labels, logits.argmax(-1), labels=np.arange(len(names)), zero_division=0
            )
            for logits in runs
        ]
        precision, recall, f1, n = (np.mean(part, 0) for part in zip(*found, strict=True))
        rows = zip(names, n, precision, recall, f1, drawn[OF_CLASSES], strict=True)
        scores = [
            ClassScore(label=name, n=int(k), precision=float(p), recall=float(r), f1=interval(float(f), d))
            for name, k, p, r, f, d in rows
            if k
        ]
        return sorted(scores, key=lambda one: one.f1.value)


def truth_metrics(logits: "Array", labels: "Array") -> dict[str, float]:
    """Logits (n, C) against labels (n,). Macro values are means over the classes that occur in `labels`."""
    from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

    present, predicted = np.unique(labels), logits.argmax(-1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=present, average="macro", zero_division=0
    )
    probabilities = np.exp(scipy.special.log_softmax(logits.astype(np.float64), axis=-1))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "log_loss": float(log_loss(labels, probabilities, labels=np.arange(logits.shape[-1]))),
        "ece": float(np.abs(_overconfidence(logits, labels).sum(0)).sum() / len(labels)),
    }


def imitation_metrics(logits: "Array", teacher: "Array") -> dict[str, float]:
    """How often the first choices agree, and the mean KL(teacher ; student) in nats."""
    agreement = (logits.argmax(-1) == teacher.argmax(-1)).mean()
    return {"agreement": float(agreement), "kl": float(_kl(logits, teacher).mean())}


class _Sums:
    """Rows as matrices; their products with the counts of rows (n, R) give the metrics (R,)."""

    def __init__(self, logits: "Array", labels: "Array | None", teacher: "Array | None") -> None:
        self.n, self._classes = logits.shape
        predicted, rows = logits.argmax(-1), {}
        self._labeled = labels is not None
        if labels is not None:
            rows["accuracy"] = predicted == labels
            rows["log_loss"] = -scipy.special.log_softmax(logits, axis=-1)[np.arange(self.n), labels]
            self._bins = _overconfidence(logits, labels)
            self._truth, self._predicted = self._choices(labels), self._choices(predicted)
            self._hits = self._truth * self._predicted
        if teacher is not None:
            rows["agreement"] = predicted == teacher.argmax(-1)
            rows["kl"] = _kl(logits, teacher)
        self._means = {name: row.astype(np.float32) for name, row in rows.items()}

    def __call__(self, counts: "Array") -> "dict[str, Array]":
        metrics = {name: row @ counts / self.n for name, row in self._means.items()}
        if not self._labeled:
            return metrics
        truth, predicted, hits = (one.T @ counts for one in (self._truth, self._predicted, self._hits))
        present = np.maximum((truth > 0).sum(0), 1)
        precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(truth, 1)
        f1 = 2 * hits / np.maximum(truth + predicted, 1)
        macro = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
        metrics |= {name: (one * (truth > 0)).sum(0) / present for name, one in macro.items()}
        return metrics | {"ece": np.abs(self._bins.T @ counts).sum(0) / self.n, OF_CLASSES: f1}

    def _choices(self, chosen: "Array") -> Any:
        ones = np.ones(self.n, np.float32)
        return scipy.sparse.csr_array((ones, (np.arange(self.n), chosen)), shape=(self.n, self._classes))


def _overconfidence(logits: "Array", labels: "Array") -> Any:
    """(n, BINS), sparse: each row's confidence minus whether it was right, in the bin of its confidence."""
    probabilities = np.exp(scipy.special.log_softmax(logits.astype(np.float64), axis=-1))
    confidence, rows = probabilities.max(-1), np.arange(len(logits))
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return scipy.sparse.csr_array(
        (confidence - (logits.argmax(-1) == labels), (rows, bins)), shape=(len(logits), BINS)
    )


def _kl(logits: "Array", teacher: "Array") -> "Array":
    log_q, log_p = (scipy.special.log_softmax(z.astype(np.float64), axis=-1) for z in (logits, teacher))
    rows: Array = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return rows
