"""What a client library repeats is logged once in a while, with a count."""

from __future__ import annotations

import logging

import aiokafka  # noqa: F401  its loggers exist once it is imported
import pytest

from notifyd.stream.calm_logs import OncePerPeriod, calm_library_logs


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(message: str, *arguments: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("aiokafka.client", level, "f", 1, message, arguments, None)


def test_a_repeated_line_comes_once_a_period_and_says_how_many_were_held_back() -> None:
    clock = Clock()
    judge = OncePerPeriod(30, clock)
    assert judge.filter(record("no node %s", 1))
    assert not judge.filter(record("no node %s", 2))
    assert not judge.filter(record("no node %s", 3))
    assert judge.filter(record("another line"))
    clock.now += 31
    after = record("no node %s", 4)
    assert judge.filter(after)
    assert after.getMessage() == "no node 4 (2 more like it were not logged)"
    assert not judge.filter(record("no node %s", 5))


def test_what_is_below_a_warning_is_left_alone() -> None:
    judge = OncePerPeriod(30, Clock())
    assert all(judge.filter(record("fetched", level=logging.DEBUG)) for _ in range(5))


def test_every_logger_of_the_library_gets_one_filter(caplog: pytest.LogCaptureFixture) -> None:
    calm_library_logs()
    calm_library_logs()
    for name in ("aiokafka", "aiokafka.conn", "aiokafka.producer.sender", "aiokafka.cluster"):
        filters = logging.getLogger(name).filters
        assert len([found for found in filters if isinstance(found, OncePerPeriod)]) == 1
    for number in range(20):
        logging.getLogger("aiokafka").error("a line of this test alone %s", number)
    assert len([line for line in caplog.messages if "of this test alone" in line]) == 1
