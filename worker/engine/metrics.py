"""How good logits are, against labels and against a teacher: values by scikit-learn, resampling by scipy.

One bootstrap draws row numbers for all columns at once, so every difference between two columns is a paired
one.
A metric is a function of sums over rows, and the sums over all resamples are one matrix product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse, stats
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

from app.catalog.base import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BINS = 15  # of confidence, for the expected calibration error (Guo et al., 2017)
RESAMPLED_CELLS = 4_000_000  # rows times resamples that are counted at once


class Interval(Frozen):
    """A value and the 95 % percentile interval of its bootstrap; None: there is only one row to draw from."""

    value: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class ClassScore(Frozen):
    """One class in one column. n: rows that have this label."""

    label: str
    n: int
    precision: float
    recall: float
    f1: Interval


@dataclass(frozen=True)
class Scored:
    """One column: its metrics by name, the same over each resample, and its classes, worst F1 first."""

    metrics: dict[str, Interval]
    drawn: "dict[str, Array]"
    classes: list[ClassScore]


def truth_metrics(logits: "Array", labels: "Array") -> dict[str, float]:
    """Logits (n, C) against labels (n,). Macro values are means over the classes that occur in `labels`."""
    present, predicted = np.unique(labels), logits.argmax(-1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=present, average="macro", zero_division=0
    )
    probabilities = np.exp(log_softmax(logits.astype(np.float64), axis=-1))
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


def score(
    columns: "Mapping[str, Array]",
    labels: "Array | None",
    names: Sequence[str],
    *,
    teacher: str,
    resamples: int,
    seed: int,
) -> dict[str, Scored]:
    """Every column's metrics over the same rows. teacher: the column that agreement and KL look at.

    labels: (n,), or None where no row has one: then agreement and KL are all that is given. names: of the
    classes.
    """
    sums = {
        name: _Sums(z, labels, None if name == teacher else columns[teacher]) for name, z in columns.items()
    }
    drawn = _resampled(sums, resamples, seed)
    scored = {}
    for name, logits in columns.items():
        values = {} if labels is None else truth_metrics(logits, labels)
        values |= {} if name == teacher else imitation_metrics(logits, columns[teacher])
        metrics = {metric: interval(value, drawn[name][metric]) for metric, value in values.items()}
        classes = [] if labels is None else _classes(logits, labels, names, drawn[name]["f1"])
        scored[name] = Scored(metrics, drawn[name], classes)
    return scored


def difference(a: Scored, b: Scored) -> dict[str, Interval]:
    """a minus b for every metric that both have, paired by resample."""
    both = [metric for metric in a.metrics if metric in b.metrics]
    return {m: interval(a.metrics[m].value - b.metrics[m].value, a.drawn[m] - b.drawn[m]) for m in both}


def gap_recovered(student: Scored, control: Scored, teacher: Scored, metric: str) -> Interval | None:
    """(student - control) / (teacher - control); None where the divisor's interval does not exclude 0."""
    gap = difference(teacher, control)[metric]
    if not gap.excludes_zero:
        return None
    divisors = teacher.drawn[metric] - control.drawn[metric]
    usable = divisors != 0
    won = (student.drawn[metric] - control.drawn[metric])[usable] / divisors[usable]
    return interval(difference(student, control)[metric].value / gap.value, won)


def interval(value: float, drawn: "Array") -> Interval:
    if not len(drawn):
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value=value, low=float(low), high=float(high))


def _classes(logits: "Array", labels: "Array", names: Sequence[str], drawn: "Array") -> list[ClassScore]:
    precision, recall, f1, n = precision_recall_fscore_support(
        labels, logits.argmax(-1), labels=np.arange(len(names)), zero_division=0
    )
    rows = zip(names, n, precision, recall, f1, drawn, strict=True)
    scores = [
        ClassScore(label=name, n=int(k), precision=float(p), recall=float(r), f1=interval(float(f), d))
        for name, k, p, r, f, d in rows
        if k
    ]
    return sorted(scores, key=lambda one: one.f1.value)


class _Sums:
    """One column's rows as matrices; their products with the counts of rows (n, R) give its metrics (R,)."""

    def __init__(self, logits: "Array", labels: "Array | None", teacher: "Array | None") -> None:
        self.n, self._classes = logits.shape
        predicted, rows = logits.argmax(-1), {}
        self._labeled = labels is not None
        if labels is not None:
            rows["accuracy"] = predicted == labels
            rows["log_loss"] = -log_softmax(logits, axis=-1)[np.arange(self.n), labels]
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
        return metrics | {"ece": np.abs(self._bins.T @ counts).sum(0) / self.n, "f1": f1}

    def _choices(self, chosen: "Array") -> Any:
        ones = np.ones(self.n, np.float32)
        return sparse.csr_array((ones, (np.arange(self.n), chosen)), shape=(self.n, self._classes))


def _resampled(sums: Mapping[str, _Sums], resamples: int, seed: int) -> "dict[str, dict[str, Array]]":
    """Each column's metrics over each resample, (R,), and `f1`, (C, R); R is 0 where there is only one
    row."""
    n = next(iter(sums.values())).n
    layout: list[tuple[str, str, int]] = []

    def statistic(drawn: "Array", axis: int = -1) -> "Array":  # noqa: ARG001  (scipy gives it)
        draws = len(drawn)
        cells = (drawn * draws + np.arange(draws)[:, None]).ravel()
        counts = np.bincount(cells, minlength=n * draws).reshape(n, draws).astype(np.float32)
        found = [
            (name, metric, np.atleast_2d(values))
            for name, of in sums.items()
            for metric, values in of(counts).items()
        ]
        layout[:] = [(name, metric, len(values)) for name, metric, values in found]
        return np.concatenate([values for *_, values in found])

    if n == 1:
        statistic(np.zeros((1, 1), np.int64))
        distribution = np.empty((sum(size for *_, size in layout), 0))
    else:
        batch = max(1, RESAMPLED_CELLS // n)
        distribution = stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=resamples,
            batch=batch,
            vectorized=True,
            method="percentile",
            rng=seed,
        ).bootstrap_distribution
    drawn: dict[str, dict[str, Array]] = {name: {} for name in sums}
    start = 0
    for name, metric, size in layout:
        part = distribution[start : start + size]
        drawn[name][metric] = part if metric == "f1" else part[0]
        start += size
    return drawn


def _overconfidence(logits: "Array", labels: "Array") -> Any:
    """(n, BINS), sparse: each row's confidence minus whether it was right, in the bin of its confidence."""
    probabilities = np.exp(log_softmax(logits.astype(np.float64), axis=-1))
    confidence, rows = probabilities.max(-1), np.arange(len(logits))
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return sparse.csr_array(
        (confidence - (logits.argmax(-1) == labels), (rows, bins)), shape=(len(logits), BINS)
    )


def _kl(logits: "Array", teacher: "Array") -> "Array":
    log_q, log_p = (log_softmax(z.astype(np.float64), axis=-1) for z in (logits, teacher))
    rows: Array = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return rows
