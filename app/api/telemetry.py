"""What Prometheus reads: requests and their durations by route template, jobs by status, and this process."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from app.api.dependencies import ReadSession
from app.services.health import jobs_by_status

router = APIRouter(tags=["operation"])
of_installation = True
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


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
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.jobs = Gauge("stillhouse_jobs", "Jobs by status.", ["status"], registry=self.registry)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)


@router.get("/metrics", response_class=Response)
def metrics(request: Request, session: ReadSession) -> Response:
    """Prometheus' text format."""
    telemetry: Telemetry = request.app.state.telemetry
    for status, number in jobs_by_status(session).items():
        telemetry.jobs.labels(status).set(number)
    return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
