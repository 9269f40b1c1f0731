"""`notifyd dlq` as it is run over a queue that was really written: replay, discard, show, stats, export."""

from __future__ import annotations

import base64
import json
import stat
from collections import Counter
from typing import Any

from notifyd.cli.output import run_async
from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.stream.dead_letter import DeadLetters
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.reading import read_topic
from notifyd.stream.resend import read_resend
from notifyd.stream.topics import Topics, read_incarnation
from tests.fixtures.processes import ProcessStarter
from tests.fixtures.service import Service
from tests.fixtures.waiting import wait_until


def bury(service: Service, count: int, *, reason: str = "stub_dead", sender: str = "orders") -> list[str]:
    """Write messages, and set each aside for its one recipient; return their ids."""

    async def work() -> list[str]:
        settings, topics = service.settings, Topics.of(service.settings)
        producer = Producer(settings, Metrics(), client_id="test")
        await producer.start()
        letters = DeadLetters(producer, topics, settings, Metrics(), await read_incarnation(settings))
        ids = [new_id() for _ in range(count)]
        envelopes = [
            build_envelope(
                id=one, to=["alice"], sender=sender, created_by="test", title="Hi", channels=["stub"]
            )
            for one in ids
        ]
        await producer.send_all([OutRecord(topics.messages, value, b"k") for value in envelopes])
        records = [record async for record in read_topic(settings, topics.messages)]
        fresh = [record for record in records if record.value in set(envelopes)]
        await producer.send_all(
            [
                letters.record(
                    record, reason=reason, error="by script", attempts=3, channel="stub", user="alice"
                )
                for record in fresh
            ]
        )
        await producer.stop(5)
        return ids

    return run_async(work())


def records_of(service: Service, topic: str) -> list[Any]:
    async def read() -> list[Any]:
        return [record async for record in read_topic(service.settings, topic)]

    return run_async(read())


def resent(service: Service) -> Counter[str]:
    return Counter(
        json.loads(one.value)["UUID"] for one in records_of(service, Topics.of(service.settings).resend)
    )


def dlq(service: Service, *arguments: str, code: int = 0, stdin: str = "") -> dict[str, Any]:
    done = service.run("dlq", *arguments, "--json", stdin=stdin)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_each_is_done_again_for_its_recipient_alone_and_ends_well(service: Service) -> None:
    ids = bury(service, 30)
    bury(service, 5, reason="other")
    assert dlq(service, "replay", "--reason", "stub_dead", "--dry-run") == {
        "action": "replay",
        "dry_run": True,
        "done": 30,
        "before": 0,
        "refused": {},
    }
    assert resent(service) == {}
    # It asks, unless told not to.
    assert service.run("dlq", "replay", "--reason", "stub_dead", stdin="no\n").returncode == 1
    assert resent(service) == {}
    done = dlq(service, "replay", "--reason", "stub_dead", "--yes", "--actor", "ticket 7")
    assert (done["done"], done["before"]) == (30, 0)
    assert resent(service) == dict.fromkeys(ids, 1)
    for record in records_of(service, Topics.of(service.settings).resend):
        order = read_resend(record)
        assert (order.user, order.channel) == ("alice", "stub")
    again = dlq(service, "replay", "--reason", "stub_dead", "--yes")
    assert (again["done"], again["before"]) == (0, 30)
    assert service.rows("SELECT DISTINCT actor, action, reason, count(*) OVER () FROM dlq_audit") == [
        ("ticket 7", "replay", "stub_dead", 30)
    ]
    service.roles("deliver", "persist")
    sql = "SELECT count(*) FROM delivery WHERE state = 'sent' AND channel = 'stub'"
    wait_until(lambda: service.rows(sql)[0][0] >= 30, timeout_s=60, what="all to be sent", every_s=0.3)


def test_one_that_is_killed_half_way_is_simply_run_again(
    service: Service, start_notifyd: ProcessStarter
) -> None:
    ids = bury(service, 1500)
    process = start_notifyd("dlq", "replay", "--yes", "--rate", "300", env=service.env, name="replay")
    wait_until(
        lambda: service.rows("SELECT count(*) FROM dlq_audit")[0][0] >= 400,
        timeout_s=60,
        what="some to be replayed",
        every_s=0.05,
    )
    process.kill()
    done = dlq(service, "replay", "--yes")
    assert done["before"] >= 400
    assert done["done"] + done["before"] == 1500
    counts = resent(service)
    assert set(counts) == set(ids)
    assert max(counts.values()) <= 2
    assert sum(counts.values()) - 1500 <= 200


def test_what_died_as_a_whole_goes_back_byte_for_byte(service: Service) -> None:
    topics = Topics.of(service.settings)
    body = b'{"UUID": "nonsense"'

    async def work() -> None:
        settings = service.settings
        producer = Producer(settings, Metrics(), client_id="test")
        await producer.start()
        letters = DeadLetters(producer, topics, settings, Metrics(), await read_incarnation(settings))
        await producer.send_all([OutRecord(topics.messages, body, b"key", (("own", b"\x01"),))])
        [record] = [one async for one in read_topic(settings, topics.messages)]
        await letters.write(record, reason="not_json", error="no JSON")
        record.value = b"x" * 50_000_000
        await letters.write(record, reason="too_large", error="far too large")
        await producer.stop(5)

    run_async(work())
    done = dlq(service, "replay", "--yes", code=1)
    assert done["done"] == 1
    assert list(done["refused"].values()) == [1]
    first, second = records_of(service, topics.messages)
    assert (second.key, second.value, second.headers) == (first.key, body, (("own", b"\x01"),))


def test_discard_show_stats_and_export_tell_what_is_there(service: Service, tmp_path) -> None:
    bury(service, 6, sender="orders")
    bury(service, 4, reason="gone", sender="billing")
    assert dlq(service, "discard", "--sender", "billing", "--limit", "3", "--yes")["done"] == 3
    told = service.run("dlq", "stats", "--json").stdout
    rows = [json.loads(line) for line in told.splitlines()]
    assert [(row["reason"], row["letters"], row["open"]) for row in rows] == [
        ("stub_dead", 6, 6),
        ("gone", 4, 1),
    ]
    by_sender = service.run("dlq", "stats", "--by", "sender").stdout
    assert [line.split()[:3] for line in by_sender.splitlines()] == [
        ["sender", "letters", "open"],
        ["orders", "6", "6"],
        ["billing", "4", "1"],
    ]
    assert dlq(service, "replay", "--dry-run")["done"] == 7

    listed = [
        json.loads(line)
        for line in service.run("dlq", "ls", "--json", "--sender", "billing").stdout.splitlines()
    ]
    assert len(listed) == 4
    shown = [dlq(service, "show", item["place"]) for item in listed]
    assert sorted(len(one["audit"]) for one in shown) == [0, 1, 1, 1]
    assert {one["message"]["from"] for one in shown} == {"billing"}
    assert service.run("dlq", "show", "0:99999").returncode == 1
    assert service.run("dlq", "show", "nonsense").returncode == 2

    file = tmp_path / "dead.jsonl"
    assert service.run("dlq", "export", str(file), "--reason", "gone").returncode == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 4
    assert all(json.loads(base64.b64decode(line["value_base64"]))["from"] == "billing" for line in lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_times_and_wrong_use(service: Service) -> None:
    bury(service, 2)
    assert dlq(service, "replay", "--dry-run", "--since", "1h")["done"] == 2
    assert dlq(service, "replay", "--dry-run", "--until", "1h")["done"] == 0
    wrong = service.run("dlq", "replay", "--since", "yesterday")
    assert wrong.returncode == 2
    assert "--since 'yesterday' is no time" in wrong.stderr
    assert service.run("dlq", "stats", "--by", "colour").returncode == 2
    without = service.run("dlq", "replay", "--yes", NOTIFYD_DATABASE_URL="")
    assert without.returncode == 2
    assert "NOTIFYD_DATABASE_URL" in without.stderr
