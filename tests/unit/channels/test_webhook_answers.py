import email.utils

import pytest

from notifyd.channels.http_faults import Disconnected
from notifyd.channels.outcomes import combine
from notifyd.channels.webhook_answers import (
    outcome_of_error,
    outcome_of_status,
    parse_retry_after,
)
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Done("HTTP 200")),
        (204, Done("HTTP 204")),
        (299, Done("HTTP 299")),
        (301, Dead("redirected", "HTTP 301: redirects are not followed")),
        (304, Dead("redirected", "HTTP 304: redirects are not followed")),
        (400, Dead("http_400", "HTTP 400")),
        (401, Dead("http_401", "HTTP 401")),
        (404, Dead("http_404", "HTTP 404")),
        (408, Retry("http_408", detail="HTTP 408")),
        (410, Dead("gone", "HTTP 410")),
        (413, Dead("http_413", "HTTP 413")),
        (425, Retry("http_425", detail="HTTP 425")),
        (429, Retry("http_429", detail="HTTP 429")),
        (500, Retry("http_500", detail="HTTP 500")),
        (501, Retry("http_501", detail="HTTP 501")),
        (503, Retry("http_503", detail="HTTP 503")),
        (101, Dead("bad_response", "HTTP 101 is no answer")),
        (799, Dead("bad_response", "HTTP 799 is no answer")),
    ],
)
def test_statuses(status: int, outcome: Outcome) -> None:
    assert outcome_of_status(status, None, now_s=NOW) == outcome


def test_a_retry_keeps_what_the_peer_asked_for_and_a_dead_end_does_not() -> None:
    assert outcome_of_status(503, "30", now_s=NOW) == Retry("http_503", after_s=30, detail="HTTP 503")
    assert outcome_of_status(404, "30", now_s=NOW) == Dead("http_404", "HTTP 404")


@pytest.mark.parametrize(
    ("value", "after_s"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),  # a digit, but not one of HTTP's
        ("9" * 40, None),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90),
        (email.utils.formatdate(NOW - 90, usegmt=True), None),
        ("Sun, 06 Nov 2044 08:49:37 GMT", 2_362_034_977 - NOW + 0),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_both_forms_of_retry_after(value: str | None, after_s: float | None) -> None:
    found = parse_retry_after(value, now_s=NOW)
    assert found == (None if after_s is None else pytest.approx(after_s))


def test_an_error_of_our_own_is_raised_again() -> None:
    with pytest.raises(KeyError):
        outcome_of_error(KeyError("x"), timeout_s=10)


def test_errors_without_an_answer_are_retried() -> None:
    assert outcome_of_error(TimeoutError(), timeout_s=10) == Retry("timeout", detail="no answer within 10 s")
    lost = outcome_of_error(Disconnected(), timeout_s=10)
    assert isinstance(lost, Retry)
    assert lost.reason == "connection_lost"


DONE, RETRY, DEAD, GONE = (
    Done("HTTP 200"),
    Retry("http_503", 9, "HTTP 503"),
    Dead("http_404", "HTTP 404"),
    Dead("gone", "HTTP 410"),
)
BUSY = Retry("no_sockets", detail="Too many open files", counts=False)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([DONE, DONE], Done("webhook[0] HTTP 200; webhook[1] HTTP 200")),
        ([DONE, RETRY], Retry("http_503", 9, "webhook[0] HTTP 200; webhook[1] HTTP 503")),
        ([DEAD, RETRY], Retry("http_503", 9, "webhook[0] HTTP 404; webhook[1] HTTP 503")),
        ([DONE, DEAD], Dead("http_404", "webhook[0] HTTP 200; webhook[1] HTTP 404")),
        ([DONE, GONE], Done("webhook[0] HTTP 200; webhook[1] HTTP 410", gone=(1,))),
        ([GONE, DEAD], Dead("http_404", "webhook[0] HTTP 410; webhook[1] HTTP 404", gone=(0,))),
        ([GONE, GONE], Dead("gone", "webhook[0] HTTP 410; webhook[1] HTTP 410", gone=(0, 1))),
        ([GONE], Dead("gone", "HTTP 410", gone=(0,))),
        (
            [BUSY, DONE],
            Retry("no_sockets", None, "webhook[0] Too many open files; webhook[1] HTTP 200", counts=True),
        ),
    ],
)
def test_several_addresses_make_one_outcome(outcomes: list[Outcome], expected: Outcome) -> None:
    assert combine("webhook", dict(enumerate(outcomes))) == expected


def test_one_address_is_not_numbered() -> None:
    assert combine("webhook", {3: DONE}) is DONE


def test_the_longest_wait_is_kept_and_what_never_left_does_not_count() -> None:
    waits = {0: Retry("http_429", 5), 1: Retry("http_503"), 2: Retry("http_429", 60)}
    combined = combine("webhook", waits)
    assert isinstance(combined, Retry)
    assert combined.after_s == 60
    both = combine("webhook", {0: BUSY, 1: BUSY})
    assert isinstance(both, Retry)
    assert not both.counts
