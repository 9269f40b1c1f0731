"""Keep aiokafka's logs readable while a broker is away: it says the same some forty times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

#: The same line of the same client module is let through once in this time.
_PERIOD_S: Final = 30.0


class OncePerPeriod(logging.Filter):
    """Lets a line through once in `period_s`, with the number of its like that were held back before."""

    def __init__(self, period_s: float = _PERIOD_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._period_s = period_s
        self._clock = clock
        self._seen: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Judge by the text before its arguments are put in: their times and ids differ each time."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        until, held = self._seen.get(record.msg, (0.0, 0))
        if now < until:
            self._seen[record.msg] = (until, held + 1)
            return False
        self._seen[record.msg] = (now + self._period_s, 0)
        if held:
            record.msg = f"{record.getMessage()} ({held} more like it were not logged)"
            record.args = ()
        return True


def calm_library_logs() -> None:
    """Put the filter on every logger of aiokafka that has none; its modules must be imported."""
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if not f"{name}.".startswith("aiokafka.") or not isinstance(logger, logging.Logger):
            continue
        # On each, not only on `aiokafka`: a logger's filters do not see what its children log.
        if not any(isinstance(found, OncePerPeriod) for found in logger.filters):
            logger.addFilter(OncePerPeriod())
