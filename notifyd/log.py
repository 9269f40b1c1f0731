"""Structured logs: JSON in pods, colours on a terminal; standard logging goes the same way."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import Any

import structlog

from notifyd.settings import Settings
from notifyd.tracing import add_trace_ids

#: Libraries that say too much for an operator; their warnings still pass.
_CHATTY = ("aiokafka", "faust", "mode", "asyncio", "aiohttp.access", "kafka")


def is_json(settings: Settings) -> bool:
    """Whether the logs of this process are lines of JSON."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def configure_logging(settings: Settings, **fixed: Any) -> None:
    """Send all logs of this process to standard error; `fixed` keys are on every line."""
    as_json = is_json(settings)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if settings.tracing_endpoint is not None and find_spec("opentelemetry") is not None:
        shared.append(add_trace_ids)
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        # Plain: rich's tracebacks take 50 ms each, and a burst of errors would keep the event loop
        # from Kafka's heartbeats until the group throws the process out.
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fixed)


def get_logger(**keys: Any) -> structlog.typing.FilteringBoundLogger:
    """Return a logger with `keys` on every line."""
    # Lazy: made at import, it must bind nothing before `configure_logging` has spoken.
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**keys)
    return logger
