"""How the service does, in Prometheus' terms; services.operation says what each figure means.

What is read from the database is the same in every process: alerts take its maximum over them, not its sum.
"""

from collections.abc import Iterator, Mapping
from math import inf

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.services.operation import Operation
from app.services.tallies import BUCKETS_S, STORED, Sum

_COUNTERS = (  # name of the tally, of the metric, its label and its help
    ("jobs_created", "jobs_created", None, "Jobs accepted."),
    ("jobs_ended", "jobs_ended", "status", "Jobs ended, by how."),
    ("jobs_poisoned", "jobs_poisoned", None, "Jobs given up because every attempt died without progress."),
    ("attempts_started", "attempts_started", None, "Attempts begun."),
    (
        "attempts_ended",
        "attempts_ended",
        "cause",
        "Attempts ended: by a verdict (ended), handed back (yielded), crashed, or with their worker (lost).",
    ),
    (
        "deliveries",
        "delivery_attempts",
        "outcome",
        "Tries to reach a webhook: taken (delivered), to be repeated (refused), or the last one (failed).",
    ),
)
_DURATIONS = (
    ("phase_seconds", "phase", "Time that completed phases of jobs took."),
    ("checkpoint_seconds", None, "Time that saving a checkpoint took."),
)


class Reading(Collector):
    """What one look at the database found; None: it did not answer."""

    def __init__(self, operation: Operation | None) -> None:
        self._operation = operation

    def collect(self) -> Iterator[Metric]:
        found = self._operation
        yield _gauge("database_up", "Whether the database answered this scrape.", float(found is not None))
        if found is not None:
            yield from _standing(found)
            yield from _happened(found.happened)


def _standing(found: Operation) -> Iterator[Metric]:
    waits = {name: line.count for name, line in found.queue.items()}
    ages = {name: line.oldest_s for name, line in found.queue.items()}
    yield _gauges("jobs", "Jobs that have not ended, by status.", "status", found.jobs)
    yield _gauges("queue_jobs", "Queued jobs that are due, by accelerator.", "accelerator", waits)
    yield _gauges("queue_oldest_seconds", "For how long the oldest of them is due.", "accelerator", ages)
    yield _gauges("running_jobs", "Running jobs, by worker.", "worker", found.running)
    yield _gauges("workers", "Workers, by how they are; lost ones for an hour.", "state", found.workers)
    yield _gauges("imports", "Imports by status, up to 10000 each.", "status", found.imports)
    for name, what, line in (
        ("outbox", "Events not handed on yet", found.outbox),
        ("deliveries_due", "Deliveries of webhooks that are due", found.deliveries),
    ):
        yield _gauge(name, f"{what}, up to 10000.", line.count)
        yield _gauge(f"{name}_oldest_seconds", "For how long the oldest of them waits.", line.oldest_s)


def _happened(happened: Mapping[str, Mapping[str, Sum]]) -> Iterator[Metric]:
    for tally, name, label, told in _COUNTERS:
        sums = {key: one.count for key, one in happened.get(tally, {}).items()}
        counter = CounterMetricFamily(f"stillhouse_{name}", told, labels=[label] if label else [])
        for key, count in (sums if label else {"": sums.get("", 0)}).items():
            counter.add_metric([key] if label else [], count)
        yield counter
    for tally, label, told in _DURATIONS:
        histogram = HistogramMetricFamily(f"stillhouse_{tally}", told, labels=[label] if label else [])
        for key, one in happened.get(tally, {}).items():
            histogram.add_metric([key] if label else [], _cumulative(one), one.seconds)
        yield histogram
    stored = happened.get(STORED, {}).get("", Sum())
    yield _gauge("stored_blobs", "Blobs stored, when the garbage was last collected.", stored.count)
    yield _gauge("stored_bytes", "Their bytes.", stored.seconds)


def _cumulative(one: Sum) -> list[tuple[str, float]]:
    buckets, below = [], 0
    for end in BUCKETS_S:
        below += one.buckets[end]
        buckets.append(("+Inf" if end == inf else str(end), float(below)))
    return buckets


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(f"stillhouse_{name}", told, value=value)


def _gauges(name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"stillhouse_{name}", told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
