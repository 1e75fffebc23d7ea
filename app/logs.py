"""One event a line, ours and the libraries' alike: readable in a console, JSON for machines."""

import logging
import os
import sys
from typing import Any

import structlog

from app import traces
from app.settings import Settings, unknown_variables

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    traces.stamp,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(settings: Settings) -> None:
    """All goes to stderr, ours from INFO on, the libraries' from WARNING on."""
    renderer: Any = structlog.processors.JSONRenderer() if settings.log_format == "json" else _console()
    ending = [structlog.processors.format_exc_info, renderer]
    structlog.configure(
        processors=[*_SHARED, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    foreign = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            *_SHARED,
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.PositionalArgumentsFormatter(),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(foreign)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def warn_of_unknown_settings() -> None:
    """A misspelt variable leaves a default in force, and nobody would know."""
    for name, meant in unknown_variables(os.environ).items():
        structlog.get_logger().warning("this variable is no setting", variable=name, did_you_mean=meant)


def _console() -> Any:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
    )
