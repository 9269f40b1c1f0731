"""Keep the log free of what clients do: a server in public gets nonsense all day, a traceback each."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.web_exceptions import HTTPException
from aiohttp.web_protocol import RequestPayloadError

#: Requests that are no HTTP, bodies that break off, clients that are gone before their answer.
_THEIRS = (HttpProcessingError, RequestPayloadError, ConnectionResetError, HTTPException)


class NotOurs(logging.Filter):
    """Holds back records about a fault of a client."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Judge by the exception that is logged."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(error, _THEIRS)


def calm_server_log() -> None:
    """Put the filter on aiohttp's server log, once."""
    if not any(isinstance(known, NotOurs) for known in server_logger.filters):
        server_logger.addFilter(NotOurs())
