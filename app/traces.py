"""Traces in OpenTelemetry's terms, from a request over the bell and the worker to the end of a job.

On when OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) is set; the other OTEL_* variables mean what they
mean everywhere. While they are off nothing of OpenTelemetry is imported and a span costs one comparison.
Attributes are ids, kinds and counts: never a secret, a row, a path or a name that a user gave.
"""

import os
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

PARENT = "TRACEPARENT"  # the variable in which a child process is handed its parent
FLUSH_MS = 3_000
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NOTHING: AbstractContextManager[None] = nullcontext()

Attribute = str | int | float | bool


def start(service: str) -> None:
    """service: what this process is called where OTEL_SERVICE_NAME does not say it."""
    global _provider  # noqa: PLW0603  (as it is with the log: one a process)
    wanted = any(map(os.environ.get, _ENDPOINTS)) and os.environ.get("OTEL_TRACES_EXPORTER") != "none"
    if _provider is not None or not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def flush() -> None:
    """Sends what has not been sent, for a short while: before a process says that it is done and is ended."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MS)


def stop() -> None:
    """No spans any more; what has not been sent is, for a short while."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.force_flush(FLUSH_MS)
        provider.shutdown()


def is_on() -> bool:
    return _provider is not None


def span(
    name: str, parent: str | None = None, begun_ns: int | None = None, **about: Attribute
) -> "AbstractContextManager[Span | None]":
    """A stretch of work; what happens inside belongs to it. None: traces are off.

    parent: a traceparent; None: the span around this one. begun_ns: on the system's clock, where it began
    before it was known whose it is. about: attributes.
    """
    if _provider is None:
        return _NOTHING
    return _span(_provider, name, parent, begun_ns, about)


def sampled(share: float, traceparent: str | None) -> bool:
    """Whether one of many alike is traced: a share of them, and those whose client traces them."""
    if _provider is None:
        return False
    return (traceparent is not None and traceparent.endswith("1")) or random.random() < share  # noqa: S311


def current() -> str | None:
    """The traceparent of the span around this; None: there is none."""
    if _provider is None:
        return None
    context = _around()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The traceparent of a request whose client has a trace of its own."""
    for name, value in headers:
        if name == b"traceparent" and _FORM.fullmatch(text := value.decode("latin-1")):
            return text
    return None


def for_children() -> dict[str, str]:
    """Environment variables, by which their spans belong to the one around this."""
    traceparent = current()
    return {} if traceparent is None else {PARENT: traceparent}


@contextmanager
def within_parent() -> Iterator[None]:
    """Spans inside belong to the one that this process was started in."""
    given = os.environ.get(PARENT, "")
    if _provider is None or not _FORM.fullmatch(given):
        yield
        return
    from opentelemetry import context

    token = context.attach(_context(given))
    try:
        yield
    finally:
        context.detach(token)


def stamp(_logger: Any, _method: str, line: Any) -> Any:
    """Puts the trace's id into a line of the log."""
    if _provider is not None and (context := _around()).is_valid:
        line["trace_id"] = f"{context.trace_id:032x}"
    return line


_provider: "TracerProvider | None" = None


@contextmanager
def _span(
    provider: "TracerProvider",
    name: str,
    parent: str | None,
    begun_ns: int | None,
    attributes: dict[str, Any],
) -> Iterator["Span"]:
    """An exception is named, without its text."""
    from opentelemetry.trace import StatusCode

    with provider.get_tracer("stillhouse").start_as_current_span(
        name,
        _context(parent),
        attributes=attributes,
        start_time=begun_ns,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def _context(traceparent: str | None) -> Any:
    """None: the one that is current."""
    if traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _around() -> Any:
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context()
