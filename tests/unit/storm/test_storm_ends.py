"""Which ends of a process are as they should be."""

from __future__ import annotations

import signal

import pytest

from tests.storm.keeper import End


@pytest.mark.parametrize(
    ("cause", "code", "was_up", "was_frozen", "is_good"),
    [
        ("kill", -signal.SIGKILL, True, False, True),
        ("term", 0, True, False, True),
        ("term", 70, True, False, False),
        ("term", 70, True, True, True),
        ("term", 1, True, True, False),
        ("term", -signal.SIGTERM, False, False, True),
        ("term", -signal.SIGTERM, True, False, False),
        ("", 0, True, False, False),
        ("", 1, True, False, False),
        ("", 70, True, True, False),
    ],
)
def test_an_end_is_judged_by_what_brought_it_about(
    cause: str, code: int, was_up: bool, was_frozen: bool, is_good: bool
) -> None:
    end = End("ws-0", 1.0, cause, code, 2.0, was_up, was_frozen, "")
    assert end.is_good is is_good
