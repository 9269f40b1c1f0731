"""A thousand faulty records among ten thousand good ones stop nobody, and none of them is lost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics
from tests.fixtures.faulty_records import Maker, Record, mixed
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver

GOOD, FAULTY, RIVALS, OVER_DLQ = 10_000, 1_000, 20, 3

Place = tuple[int, int]


async def _write(service: Service, records: Sequence[Record]) -> list[Place]:
    """Write them in this order with a producer that is not ours; return where each stands."""
    producer = AIOKafkaProducer(
        bootstrap_servers=service.settings.kafka_bootstrap_servers,
        enable_idempotence=service.settings.kafka_idempotence,
        acks="all",
        max_request_size=8 * 1024 * 1024,
        # A topic's limit is of the compressed batch: so a record may come in that no DLQ takes.
        compression_type="gzip" if service.settings.kafka_idempotence else None,
    )
    await producer.start()
    try:
        topic = Topics.of(service.settings).messages
        confirmed = [
            await producer.send(
                topic, one.value, key=one.key, partition=one.partition, headers=list(one.headers)
            )
            for one in records
        ]
        return [(done.partition, done.offset) for done in await asyncio.gather(*confirmed)]
    finally:
        await producer.stop()


async def _read_dlq(service: Service) -> list[Any]:
    return [record async for record in read_topic(service.settings, Topics.of(service.settings).dlq)]


def _wait_for_lag(role: NotifydProcess, partitions: int) -> None:
    """Return once the group has committed everything that this role reads of the input topic."""
    lags = "notifyd_lag_records"
    wait_until(
        lambda: role.get("/metrics")[1].count(lags + "{") >= partitions and role.metric(lags) == 0,
        timeout_s=60,
        every_s=0.2,
        what=f"{role.name} to have no lag",
    )


def _shown(record: Record) -> dict[str, Any]:
    """Return the content that a client may see."""
    content: dict[str, Any] = json.loads(record.value or b"")["content"]
    content.pop("contacts", None)
    return content


def test_good_records_go_through_and_each_faulty_one_is_dead_as_it_was_and_once(
    service: Service, webhook_receiver: WebhookReceiver, broker_kind: str
) -> None:
    partitions = service.settings.topic_partitions
    maker = Maker(webhook_receiver.url())
    records = list(
        mixed(
            maker,
            good=GOOD,
            faulty=FAULTY,
            rivals=RIVALS,
            # The embedded broker knows neither a topic's limit nor compression.
            over_dlq=0 if broker_kind == "embedded" else OVER_DLQ,
            partitions=partitions,
        )
    )
    last = [maker.last(partition) for partition in range(partitions)]
    rivals = [one for one in records if one.kind == "rival"]
    good = [one for one in records if not one.reason] + last
    faulty = [one for one in records if one.reason and one.kind != "rival"]
    assert (len(good) - len(last) + RIVALS, len(faulty) + RIVALS) == (GOOD, FAULTY)
    probes = [one for one in good if "probe" in one.recipients]
    hooked = [one for one in good if "webhook" in one.channels]

    roles = service.roles("persist", "deliver", "ws")
    persist, deliver, ws = roles
    listen = service.listen("probe", ws, "--count", str(len(probes)), "--timeout", "120")
    records += last
    places = asyncio.run(_write(service, records))

    # Everything that is good goes through, the last record of each partition included.
    expected = len(good) + RIVALS
    wait_until(
        lambda: service.rows("SELECT count(*) FROM message") == [(expected,)], timeout_s=120, every_s=0.5
    )
    webhook_receiver.wait_for_ids([one.id for one in hooked], timeout_s=120)
    assert listen.wait(timeout_s=60) == 0
    for role in (persist, deliver):
        _wait_for_lag(role, partitions)

    # Rows: the original bytes of each, its deliveries, its webhook as sent.
    stored = {str(id_): bytes(raw) for id_, raw in service.rows("SELECT id, raw FROM message")}
    rival_ids = {one.id for one in rivals}
    assert {id_: raw for id_, raw in stored.items() if id_ not in rival_ids} == {
        one.id: one.value for one in good
    }
    deliveries = sum(len(one.recipients) * len(one.channels) for one in good)
    deliveries += sum(len(set(json.loads(stored[id_])["toUserIds"])) for id_ in rival_ids)
    assert service.rows("SELECT count(*) FROM delivery") == [(deliveries,)]
    wait_until(
        lambda: (
            service.rows("SELECT state, count(*) FROM delivery WHERE channel = 'webhook' GROUP BY 1")
            == [("sent", len(hooked))]
        ),
        timeout_s=60,
        every_s=0.2,
        what="all webhooks to be noted as sent",
    )
    assert set(webhook_receiver.counts().values()) == {1}

    # The listener got each of its messages as the first of that id said it, and nothing else.
    heard = {frame["message"]["UUID"]: frame["message"]["content"] for frame in frames_of(listen, "msg")}
    assert heard == {one.id: _shown(one) for one in probes}

    # The dead: one letter for each faulty record, at its position, byte for byte, for its reason.
    at = dict(zip(places, records, strict=True))
    lost_rivals = {
        place: one for place, one in at.items() if one.kind == "rival" and stored[one.id] != one.value
    }
    assert len(lost_rivals) == RIVALS
    dead = {place: one for place, one in at.items() if one in faulty} | lost_rivals
    letters = service.dead_letters()
    found = {(letter["partition"], letter["offset"]): letter for letter in letters}
    assert len(letters) == len(found) == FAULTY
    assert found.keys() == dead.keys()
    wrong = [
        (one.kind, one.reason, found[place]["reason"], found[place]["error"], (one.value or b"")[:300])
        for place, one in dead.items()
        if found[place]["reason"] != one.reason
    ]
    assert not wrong
    for place, one in dead.items():
        letter = found[place]
        assert letter["topic"] == Topics.of(service.settings).messages
        value = None if letter["value_base64"] is None else base64.b64decode(letter["value_base64"])
        if one.kind == "over_dlq":
            assert value
            assert one.value is not None
            assert one.value.startswith(value)
        else:
            assert value == one.value
        if one.reason == "id_conflict":
            assert letter["id"].lower() == one.id
        assert letter["error"]
    _check_records(asyncio.run(_read_dlq(service)), dead)

    # Nobody fell over, and every role counted what it skipped.
    for role in roles:
        assert role.is_running
        assert role.metric("notifyd_handler_failures_total") == 0
        assert not role.log_entries("handler_failed")
    assert persist.metric("notifyd_invalid_records_total") == FAULTY
    # Of two messages in two partitions `persist` alone knows which one stands.
    assert deliver.metric("notifyd_invalid_records_total") == FAULTY - RIVALS

    # An orderly restart of `persist` reads nothing again, so no letter comes twice.
    assert persist.sigterm() == 0
    persist.start().wait_ready()
    sent = service.run("send", "--to", "alice", "--title", "after", "--json")
    message_id = json.loads(sent.stdout)["id"]
    wait_until(lambda: service.rows("SELECT 1 FROM message WHERE id = %s", message_id), every_s=0.2)
    assert len(service.dead_letters()) == FAULTY
    assert [role.sigterm() for role in roles] == [0, 0, 0]


def _check_records(letters: Sequence[Any], dead: dict[Place, Record]) -> None:
    """Compare what stands on the DLQ with the originals: key, foreign headers, digest, position."""
    kinds: Counter[str] = Counter()
    for letter in letters:
        headers = dict(letter.headers)
        assert len(headers) == len(letter.headers)
        *_, partition, offset = headers["notifyd-position"].decode().split("/")
        one = dead[int(partition), int(offset)]
        kinds[one.kind] += 1
        assert letter.key == one.key
        assert headers["notifyd-reason"].decode() == one.reason
        if one.kind == "over_dlq":
            assert one.value is not None
            assert headers["notifyd-sha256"].decode() == hashlib.sha256(one.value).hexdigest()
            assert int(headers["notifyd-bytes"]) == len(one.value)
        else:
            assert headers["x-case"].decode() == one.kind
            assert "notifyd-sha256" not in headers
    assert kinds == Counter(one.kind for one in dead.values())
