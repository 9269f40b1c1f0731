"""Whatever is missing or there twice is found, by name; and what is allowed is not called a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm.check import Facts, Sent, check
from tests.storm.collect import read_backend, read_calls, read_devices, read_reconnects
from tests.storm.groups import Standstill, TopicPartition
from tests.storm.messages import plan_message
from tests.storm.records import Journal
from tests.storm.samples import Sample, find_growth


def good_facts() -> Facts:
    """One message by webhook, one pushed to two users, one by both ways; all is well."""
    sent = [
        Sent("a", ("hook-1",), ("webhook",), 10_000, 10_010, "0:1"),
        Sent("b", ("listener-1", "listener-2"), ("ws",), 20_000, 20_010, "1:5"),
        Sent("c", ("listener-1",), ("ws", "webhook"), 30_000, 30_010, "0:2"),
    ]
    return Facts(
        sent={one.id: one for one in sent},
        rows=[("a", "done"), ("b", "pending"), ("c", "pending")],
        inbox=[("a", "hook-1"), ("b", "listener-1"), ("b", "listener-2"), ("c", "listener-1")],
        deliveries=[
            ("a", "hook-1", "webhook", "sent"),
            ("b", "listener-1", "ws", "acked"),
            ("b", "listener-2", "ws", "pending"),
            ("c", "listener-1", "ws", "acked"),
            ("c", "listener-1", "webhook", "sent"),
        ],
        good_calls=Counter({("a", "hook-1"): 1, ("c", "listener-1"): 3}),
        receipts={("b", "listener-1"), ("c", "listener-1")},
        acks={("b", "listener-1"), ("c", "listener-1")},
        connected={"listener-1": [(0, 99_000)], "listener-2": [(0, 19_000), (40_000, 99_000)]},
        sent_events=3,
    )


def test_nothing_lost_is_no_loss() -> None:
    assert check(good_facts()).losses == ()


def test_repeats_and_coverage_are_counted_and_no_loss() -> None:
    figures = check(good_facts()).figures
    assert figures["webhook_calls"] == 4
    assert figures["webhook_repeats"] == 2
    assert figures["webhook_repeat_share"] == 0.5
    assert figures["redelivered_events"] == 1
    assert (figures["ws_received"], figures["ws_addressed"]) == (2, 3)
    # The one that was away is not held against us.
    assert (figures["ws_addressed_while_connected"], figures["ws_coverage_while_connected"]) == (2, 1.0)


def _without(name: str, *keys: object) -> Callable[[Facts], None]:
    def change(facts: Facts) -> None:
        setattr(facts, name, [row for row in getattr(facts, name) if row not in keys])

    return change


def _with(name: str, *rows: object) -> Callable[[Facts], None]:
    def change(facts: Facts) -> None:
        setattr(facts, name, [*getattr(facts, name), *rows])

    return change


def _replaced(name: str, old: object, new: object) -> Callable[[Facts], None]:
    def change(facts: Facts) -> None:
        _without(name, old)(facts)
        _with(name, new)(facts)

    return change


def _no_call(facts: Facts) -> None:
    del facts.good_calls["c", "listener-1"]


def _set(name: str, value: object) -> Callable[[Facts], None]:
    return lambda facts: setattr(facts, name, value)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_without("rows", ("b", "pending")), ["message_lost: b at 1:5"]),
        (_with("rows", ("a", "done")), ["message_doubled: a 2 rows"]),
        (_with("rows", ("x", "done")), ["message_unknown: x"]),
        (_replaced("rows", ("a", "done"), ("a", "pending")), ["message_not_final: a pending"]),
        (_replaced("rows", ("a", "done"), ("a", "dead")), ["message_not_final: a dead"]),
        (_without("inbox", ("b", "listener-2")), ["inbox_lost: b listener-2"]),
        (_with("inbox", ("a", "hook-1")), ["inbox_doubled: a hook-1 2 rows"]),
        (_with("inbox", ("a", "hook-2")), ["inbox_unknown: a hook-2"]),
        (
            _without("deliveries", ("b", "listener-2", "ws", "pending")),
            ["delivery_lost: b listener-2 ws"],
        ),
        (
            _with("deliveries", ("a", "hook-1", "webhook", "sent")),
            ["delivery_doubled: a hook-1 webhook 2 rows"],
        ),
        (
            _replaced(
                "deliveries", ("a", "hook-1", "webhook", "sent"), ("a", "hook-1", "webhook", "retry_wait")
            ),
            ["delivery_not_final: a hook-1 webhook retry_wait"],
        ),
        (_no_call, ["webhook_lost: c listener-1 webhook"]),
        (
            _replaced("deliveries", ("c", "listener-1", "ws", "acked"), ("c", "listener-1", "ws", "sent")),
            ["ack_lost: c listener-1 ws sent"],
        ),
        (_set("wrong_counters", 2), ["wrong_unread_counter: - of 2 users"]),
        (_set("early_events", 3), ["event_never_joined: - 3 events"]),
        (_set("errors", 1), ["callback_missing: - 1 errors, 0 callbacks"]),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[Facts], None], found: list[str]) -> None:
    facts = good_facts()
    plant(facts)
    assert [str(loss) for loss in check(facts).losses] == found


def test_a_push_that_a_device_missed_and_came_back_for_is_told_and_a_loss_where_it_is_judged() -> None:
    # listener-2 was away, and is back: nothing of message b ever came.
    told = check(good_facts())
    assert [str(loss) for loss in told.missed_pushes] == ["push_missed: b listener-2 ws at 1:5"]
    assert check(good_facts(), judges_push=True).losses == told.missed_pushes
    facts = good_facts()
    facts.connected = {"listener-1": [(0, 99_000)], "listener-2": [(0, 19_000)]}
    assert check(facts, judges_push=True).losses == ()


def test_what_was_never_confirmed_may_be_there_or_not() -> None:
    facts = good_facts()
    facts.unsure = {"u", "v"}
    facts.rows = [*facts.rows, ("u", "done")]
    facts.inbox = [*facts.inbox, ("u", "hook-9")]
    assert check(facts).losses == ()


def test_journals_say_what_their_parties_wrote(tmp_path: Path) -> None:
    plan = plan_message(4, 17, 10)
    backend = tmp_path / "produce.journal"
    journal = Journal(backend)
    journal.write("failed", "id-1", "producer_timeout")
    journal.write("ok", "id-1", 17, 1000, 2000, "3:9", 2)
    journal.write("unsure", "id-2", 18)
    journal.write("end", 1, 1)
    journal.close()
    facts = read_backend([backend], seed=4, listeners=10)
    assert facts.sent == {"id-1": Sent("id-1", plan.users, plan.channels, 1000, 2000, "3:9")}
    assert (facts.unsure, facts.errors, facts.on_failed) == ({"id-2"}, 1, 1)

    calls = tmp_path / "receive.journal"
    journal = Journal(calls)
    for status in (503, 200, 200, 0):
        journal.write(1, status, "id-1", "hook-1")
    journal.close()
    assert read_calls(calls) == (Counter({("id-1", "hook-1"): 2}), 2)

    devices = tmp_path / "listen.journal"
    journal = Journal(devices)
    journal.write("state", 100, "u", "connecting")
    journal.write("state", 200, "u", "open")
    journal.write("msg", 300, "u", "id-1")
    journal.write("ok", 310, "u", "id-1")
    journal.write("state", 400, "u", "waiting")
    journal.write("state", 500, "u", "connecting")
    journal.write("state", 1900, "u", "open")
    journal.write("end", 0)
    journal.close()
    receipts, acks, connected = read_devices(devices)
    assert receipts == acks == {("id-1", "u")}
    assert connected["u"][0] == (200, 400)
    assert connected["u"][1][0] == 1900
    assert read_reconnects(devices) == [1.5]


def test_a_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "receive.journal"
    path.write_text("1 200 id-1 hook-1\n2 200 id-2 ho")
    assert read_calls(path)[0].keys() == {("id-1", "hook-1")}


def test_a_partition_is_served_once_it_has_moved_since_the_fault() -> None:
    first, second = TopicPartition("t", 0), TopicPartition("t", 1)
    stood = Standstill("persist", "kill", "persist-0", at_s=10.0)
    stood.look({first: 5, second: 7}, 10.1)
    stood.look({first: 6, second: 7}, 11.0)
    assert stood.served_s is None
    stood.look({first: 6, second: 7}, 12.0)
    stood.look({first: 9, second: 8}, 14.5)
    assert stood.served_s == 4.5


def _samples(name: str, life: int, per_s: float, lasts_s: int) -> list[Sample]:
    return [Sample(at_s, name, life, 100_000 + int(at_s * per_s), 40, 5, -1) for at_s in range(0, lasts_s, 5)]


def test_growth_is_told_of_long_lives_after_their_warm_up() -> None:
    grown = find_growth(
        [*_samples("ws-0", 1, 10.0, 600), *_samples("ws-1", 2, 0.0, 600), *_samples("ws-2", 3, 9.0, 60)]
    )
    by_name = {(one.name, one.measure): one.per_hour for one in grown}
    assert by_name["ws-0", "rss_kib"] == pytest.approx(36_000)
    assert by_name["ws-1", "rss_kib"] == 0
    assert not any(name == "ws-2" for name, _ in by_name)
    # No metric was seen, so nothing is said of it.
    assert ("ws-0", "tasks") not in by_name
