"""What a Celery worker tells Prometheus on a port of its own, and /healthz for whoever keeps it alive.

The database tells of jobs and workers, in the API's metrics; here is only what this process alone knows. The
port needs no key, so it listens on loopback unless `metrics_host` says otherwise.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.ports.parts import Parts
from app.services.supervise import Lookout
from app.services.workplace import Workplace

SILENT_LEASES = 2.0  # without a sign of life before this process counts as sick

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class Inside(Collector):
    """What the parts of this process count themselves."""

    def __init__(self, parts: Parts, place: Workplace, lookout: Lookout) -> None:
        self._parts, self._place, self._lookout = parts, place, lookout

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "worker_slots": ("Jobs that this worker may run at once.", self._place.slots),
            "worker_slots_taken": ("Slots that jobs hold.", self._place.taken()),
            "worker_silent_seconds": (
                "Since this worker last said that it is there.",
                self._lookout.silent_s(),
            ),
            "database_connections": ("Connections in use.", self._parts.sessions.in_use()),
        }
        for name, (told, value) in gauges.items():
            yield GaugeMetricFamily(f"stillhouse_{name}", told, value)
        failures = self._parts.blobs.failures
        yield CounterMetricFamily(
            "stillhouse_blob_errors", "Calls that the blob store did not answer.", failures
        )


def serve(parts: Parts, place: Workplace, lookout: Lookout) -> WSGIServer | None:
    """Listens until this process ends; None where the settings name no port. Raises OSError."""
    settings = parts.settings
    if not settings.metrics_port:
        return None
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Inside(parts, place, lookout))
    pages = make_wsgi_app(registry)
    longest_s = SILENT_LEASES * settings.lease_s

    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            page: Iterable[bytes] = pages(environ, start)
            return page
        if environ["PATH_INFO"] != "/healthz":
            start("404 Not Found", [])
            return []
        well = lookout.silent_s() < longest_s
        start("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [b'{"status":"ok"}' if well else b'{"status":"the database was not reached for too long"}']

    server = make_server(
        settings.metrics_host, settings.metrics_port, answer, server_class=_Server, handler_class=_Quiet
    )
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 10.0  # seconds in which a request must have come

    def log_message(self, *_: Any) -> None:
        pass
