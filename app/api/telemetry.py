"""What Prometheus reads: this process's own instruments, and how the service does as a whole.

A scrape needs a key of the operator's own project, where keys are on. It carries no name that a user gave:
routes by their templates, models by their versions' ids, workers by theirs.
"""

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.api.dependencies import PartsDep
from app.api.metric_families import Reading
from app.ports.parts import Parts
from app.services import operation

router = APIRouter(tags=["operation"])
of_installation = True

MOST_MODELS = 50  # that have series of their own; those asked later count as "other"
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_PREDICTION_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)


class Telemetry:
    """The instruments of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ["method", "route"]
        self._requests = Counter(
            "stillhouse_requests", "Requests answered.", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "stillhouse_request_seconds",
            "Time until a request was answered.",
            labels,
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self._whole = self._of_models("predict_seconds", "Time that a prediction took in its thread.")
        self._inference = self._of_models(
            "predict_inference_seconds", "The part of it in the student itself."
        )
        self._models: dict[str, tuple[Histogram, Histogram]] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def predicted(self, version_id: str, whole_s: float, inference_s: float) -> None:
        whole, inference = self._models.get(version_id) or self._histograms(version_id)
        whole.observe(whole_s)
        inference.observe(inference_s)

    def _histograms(self, version_id: str) -> tuple[Histogram, Histogram]:
        name = version_id if len(self._models) < MOST_MODELS else "other"
        found = self._whole.labels(name), self._inference.labels(name)
        if name != "other":
            self._models[name] = found
        return found

    def _of_models(self, name: str, told: str) -> Histogram:
        return Histogram(f"stillhouse_{name}", told, ["model"], buckets=_PREDICTION_S, registry=self.registry)


class Inside(Collector):
    """What the parts of this process count themselves."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        counts, held = self._parts.predictor.counts, self._parts.predictor.held()
        for name, value in vars(counts).items():
            yield CounterMetricFamily(f"stillhouse_serving_{name}", f"Serving cache: {name}.", value=value)
        yield GaugeMetricFamily("stillhouse_serving_files", "Students and tokenizers in memory.", held.files)
        yield GaugeMetricFamily(
            "stillhouse_serving_bytes", "Memory that they are reckoned to take.", held.bytes
        )
        yield CounterMetricFamily(
            "stillhouse_blob_errors", "Calls that the blob store did not answer.", self._parts.blobs.failures
        )
        yield GaugeMetricFamily(
            "stillhouse_database_connections", "Connections in use.", self._parts.sessions.in_use()
        )


@router.get("/metrics", response_class=Response)
def metrics(request: Request, parts: PartsDep) -> Response:
    """Prometheus' text format."""
    telemetry: Telemetry = request.app.state.telemetry
    reading = Reading(operation.look_if_there(parts.sessions))
    text = b"".join(map(generate_latest, (telemetry.registry, Inside(parts), reading)))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
