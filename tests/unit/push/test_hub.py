"""The hub and its connections, with a transport that writes to a list and a clock that tests move."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
from typing import Any

import pytest

from notifyd.metrics import Metrics
from notifyd.push import encoding
from notifyd.push.connection import Connection
from notifyd.push.hub import Hub
from notifyd.push.peer import JOIN_BYTES, Frame, State
from notifyd.push.protocol import CloseCode, Hello
from notifyd.push.receipts import RECENT_MESSAGES, Receipts
from tests.fixtures.push import FakeEvents, FakeTransport, make_message, payloads, push_settings


class World:
    """A hub with everything around it faked."""

    def __init__(self, **overrides: Any) -> None:
        self.at_s = 1_790_000_000.0
        self.events = FakeEvents()
        self.metrics = Metrics()
        self.hub = Hub(
            push_settings(**overrides),
            self.metrics,
            self.events,
            "pod-1",
            incarnation="inc",
            now=lambda: self.at_s,
            monotonic=lambda: self.at_s,
        )

    def message(self, to: Any = "alice", **more: Any) -> Any:
        at_ms = more.pop("timestamp_ms", int(self.at_s * 1000))
        created = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
        more.setdefault("id", _id_at(at_ms))
        return make_message(to, timestamp_ms=at_ms, created_at=created, **more)

    def join(
        self, user: str = "alice", hello: Hello | None = None, **more: Any
    ) -> tuple[Connection, FakeTransport]:
        connection, transport = Connection(self.hub, lambda c, h: None), FakeTransport()
        connection.connection_made(transport)
        self.hub.accept(connection)
        connection.state = State.VERIFYING
        self.hub.join(connection, user, more.get("expires_at_s", 2e9), hello or Hello())
        self.flush()
        transport.writes.clear()
        return connection, transport

    def flush(self) -> None:
        self.hub._outbox.flush()

    def frames(self, transport: FakeTransport) -> list[Any]:
        self.flush()
        got = [json.loads(p) for write in transport.writes for p in payloads(write)]
        transport.writes.clear()
        return [frame for one in got for frame in (one if isinstance(one, list) else [one])]


_counter = itertools.count(1)


def _id_at(at_ms: int) -> str:
    raw = f"{at_ms:012x}7{next(_counter):03x}8{0:015x}"
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_message_is_encoded_once_per_content_version(world, monkeypatch):
    calls = []
    original = encoding.public_envelope
    monkeypatch.setattr(encoding, "public_envelope", lambda *a: calls.append(a) or original(*a))
    for n in range(10):
        world.join(f"user-{n}")
        world.join(f"user-{n}", Hello(content=("1.0",)))
    assert world.hub.publish(world.message([f"user-{n}" for n in range(10)]), 0, 0) == 20
    assert len(calls) == 2


@pytest.mark.parametrize(
    "content",
    [
        {"channels": ["webhook"]},
        {"ttl": 10, "timestamp_ms": 1_790_000_000_000 - 11_000},
        {"not_before": "2026-09-21T15:00:00Z"},
    ],
)
async def test_what_is_not_for_now_or_not_for_ws_is_not_pushed(world, content):
    _, transport = world.join()
    assert world.hub.publish(world.message(**content), 0, 0) == 0
    assert world.frames(transport) == []
    assert world.hub.position(0) == 1


async def test_a_released_message_is_pushed(world):
    # The record that releases it carries a time after `notBefore`.
    world.join()
    assert world.hub.publish(world.message(not_before="2026-09-21T13:00:00Z"), 0, 0) == 1


async def test_faulty_content_is_counted_and_pushed_to_nobody(world):
    _, transport = world.join()
    assert world.hub.publish(world.message(content={"ttl": "soonish"}), 0, 0) == 0
    assert world.frames(transport) == []
    count = world.metrics.registry.get_sample_value(
        "notifyd_invalid_records_total", {"role": "ws", "reason": "bad_content"}
    )
    assert count == 1


async def test_the_same_id_with_other_bytes_is_not_pushed_but_a_double_is(world):
    _, transport = world.join()
    one = world.message(title="one")
    other = world.message(title="other", id=one.id)
    assert world.hub.publish(one, 0, 0) == 1
    assert world.hub.publish(other, 0, 1) == 0
    assert world.hub.publish(one, 0, 2) == 1
    assert {f["message"]["content"]["title"] for f in world.frames(transport)} == {"one"}


async def test_at_only_rises(world):
    _, transport = world.join()
    for offset in (5, 3, 6):
        world.hub.publish(world.message(), 2, offset)
    assert [frame.get("at") for frame in world.frames(transport)] == ["2:5", None, "2:6"]


async def test_sent_is_told_once_per_user_and_only_when_written(world):
    world.join("alice")
    world.join("alice")
    world.join("bob", Hello(ack=False))
    message = world.message(["alice", "bob", "carol"])
    world.hub.publish(message, 0, 0)
    assert world.events.posted == []
    world.flush()
    told = sorted((e.user, e.stage, e.detail, e.attempt) for e in world.events.posted)
    assert told == [("alice", "sent", None, 1), ("bob", "sent", "no_acks", 1)]


async def test_a_user_with_two_devices_is_told_once_and_counted_twice(world):
    sending = world.hub._outbox.note(world.message(["alice", "bob"]), is_one_each=False)
    sending.on_written(["alice", "bob", "alice"])
    sending.on_written(["bob"])
    world.flush()
    assert [event.user for event in world.events.posted] == ["alice", "bob"]
    assert world.metrics.registry.get_sample_value("notifyd_ws_messages_sent_total") == 4


async def test_a_reader_that_does_not_read_is_cut_and_others_are_not(world):
    slow, slow_transport = world.join("alice")
    _, quick_transport = world.join("alice")
    slow.pause_writing()
    slow_transport.buffered = 256 * 1024 + 1
    assert world.hub.publish(world.message(), 0, 0) == 1
    assert slow_transport.is_aborted
    assert slow.state is State.CLOSED
    assert len(world.frames(quick_transport)) == 1
    slow.connection_lost(None)
    assert world.hub.connections == 1


async def test_frames_wait_shared_while_the_transport_is_full_and_count_as_unsent(world):
    connection, transport = world.join()
    connection.pause_writing()
    big = "x" * 100_000
    for offset in range(2):
        world.hub.publish(world.message(body=big), 0, offset)
    world.flush()
    assert transport.writes == []
    assert connection.unsent > 200_000
    connection.resume_writing()
    assert len(world.frames(transport)) == 2
    assert connection.unsent == 0
    connection.pause_writing()
    for offset in range(2, 5):
        world.hub.publish(world.message(body=big), 0, offset)
    assert not transport.is_aborted
    world.hub.publish(world.message(), 0, 5)
    assert transport.is_aborted


async def test_joined_frames_stay_small(world):
    _, transport = world.join()
    for offset in range(10):
        world.hub.publish(world.message(body="x" * 20_000), 0, offset)
    world.flush()
    assert len(transport.writes) == 4
    assert max(len(write) for write in transport.writes) < JOIN_BYTES + 1024
    assert [f["at"] for f in world.frames(transport)] == [f"0:{n}" for n in range(10)]


async def test_a_large_broadcast_yields_to_the_loop(world):
    transports = [world.join(f"user-{n}")[1] for n in range(600)]
    world.hub.publish(world.message([f"user-{n}" for n in range(600)]), 0, 0)
    world.flush()
    assert sum(bool(t.writes) for t in transports) == 256
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(bool(t.writes) for t in transports) == 600


async def test_heartbeats_go_round_in_slices_and_skip_the_closed(world):
    pairs = [world.join(f"user-{n}") for n in range(300)]
    pairs[0][0].close(CloseCode.GOING_AWAY)
    world.at_s += 24
    assert not world.hub._sweep.run_due()
    world.at_s += 2
    assert world.hub._sweep.run_due()
    assert not world.hub._sweep.run_due()
    beaten = [world.frames(t)[-1:] for c, t in pairs if c.state is State.OPEN]
    assert all(frames and frames[0]["op"] == "pos" for frames in beaten)
    world.at_s += 24
    assert not world.hub._sweep.run_due()
    assert world.frames(pairs[1][1]) == []


async def test_expiry_tells_first_and_closes_on_time(world):
    _, transport = world.join(expires_at_s=world.at_s + 60)
    for step in (25, 25, 6):
        world.at_s += step
        world.hub._sweep.run_due()
    assert [f for f in world.frames(transport) if f["op"] == "drain"] == [{"op": "drain", "after": [0, 4000]}]
    assert world.hub.connections == 1
    world.at_s += 4
    world.hub._sweep.run_due()
    assert world.hub.connections == 0
    assert transport.writes[-1][2:4] == (4001).to_bytes(2, "big")


async def test_a_peer_that_never_answers_a_close_is_dropped(world):
    connection, transport = world.join()
    connection.close(CloseCode.GOING_AWAY)
    world.at_s += 1
    world.hub._sweep.run_due()
    assert not transport.is_aborted
    world.at_s += 1.1
    world.hub._sweep.run_due()
    assert transport.is_aborted


async def test_sends_to_a_closing_connection_are_dropped(world):
    connection, transport = world.join()
    connection.close(CloseCode.GOING_AWAY)
    transport.writes.clear()
    assert not connection.send(Frame(b"{}"))
    assert world.hub.publish(world.message(), 0, 0) == 0
    connection.close(CloseCode.INTERNAL)
    assert transport.writes == []


def masked(payload: bytes, first: int = 0x81) -> bytes:
    assert len(payload) < 126
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


async def test_a_flood_of_frames_is_closed(world):
    _, transport = world.join()
    connection = next(iter(world.hub._members.sockets))
    connection.data_received(masked(b"", 0x89) * 200)
    assert connection.state is State.OPEN
    connection.data_received(masked(b"", 0x89))
    assert connection.state is State.CLOSING
    assert transport.writes[-1][2:4] == (1008).to_bytes(2, "big")
    connection.data_received(masked(b"", 0x89) * 500)
    assert transport.is_aborted


async def test_pings_of_one_who_does_not_read_get_no_pongs_for_ever(world):
    connection, transport = world.join()
    transport.buffered = 300_000
    connection.data_received(masked(b"x", 0x89))
    assert transport.is_aborted
    assert transport.writes == []


async def test_what_comes_after_a_broken_frame_is_not_read(world):
    connection, transport = world.join()
    connection.data_received(b"\x81\x01x" + masked(b'{"op":"ack","ids":["x"]}'))
    assert transport.writes[-1][2:4] == (1002).to_bytes(2, "big")
    writes = len(transport.writes)
    connection.data_received(masked(b'{"op":"ack","ids":["x"]}') * 1000)
    assert len(transport.writes) == writes


def receipts_of(world: World) -> Receipts:
    return world.hub._receipts


async def test_only_so_many_messages_are_remembered(world):
    world.join()
    receipts = receipts_of(world)
    message = world.message()
    known = receipts._recent
    for n in range(RECENT_MESSAGES):
        known[f"{n}"] = ()
    assert receipts.remember(message, (0, 0))
    assert len(known) == RECENT_MESSAGES
    assert "0" not in known
    assert message.id in known


async def test_messages_to_many_are_remembered_until_their_recipients_are_too_many(world, monkeypatch):
    monkeypatch.setattr("notifyd.push.receipts.RECENT_RECIPIENTS", 100)
    receipts = receipts_of(world)
    users = [f"user-{n}" for n in range(40)]
    messages = [world.message(users) for _ in range(3)]
    # The second again with other bytes, of a later place in its partition than all that is known of it.
    other = world.message(users, id=messages[1].id, title="other")
    assert receipts.remember(messages[0], (0, 0))
    assert receipts.remember(messages[1], (1, 5))
    assert receipts.remember(other, (1, 3))
    assert list(receipts._recent) == [messages[0].id, messages[1].id]
    assert receipts.remember(messages[2], (0, 1))
    assert list(receipts._recent) == [messages[1].id, messages[2].id]


async def test_of_a_message_to_many_only_its_users_may_acknowledge(world):
    owner, _ = world.join("user-7")
    other, transport = world.join("mallory")
    message = world.message([f"user-{n}" for n in range(100)])
    world.hub.publish(message, 0, 0)
    ack = masked(json.dumps({"op": "ack", "ids": [message.id]}).encode())
    other.data_received(ack)
    assert world.frames(transport) == [{"op": "ok", "ack": [], "refused": [message.id]}]
    owner.data_received(ack)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [(e.user, e.digest) for e in world.events.written] == [("user-7", message.digest)]


async def test_an_id_in_another_spelling_is_not_the_same_message(world):
    connection, transport = world.join()
    message = world.message()
    world.hub.publish(message, 0, 0)
    world.frames(transport)
    odd = ["{" + message.id + "}", message.id.replace("-", ""), "urn:uuid:" + message.id]
    connection.data_received(masked(json.dumps({"op": "ack", "ids": odd[:1]}).encode()))
    assert world.frames(transport) == [{"op": "ok", "ack": [], "refused": odd[:1]}]
    connection.data_received(masked(json.dumps({"op": "ack", "ids": [message.id.upper()]}).encode()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.events.written[0].id == message.id


async def test_sent_ends_the_delivery_only_where_none_of_the_users_devices_acknowledges(world):
    told = []

    def publish(offset: int) -> None:
        world.events.posted.clear()
        world.hub.publish(world.message(["alice"]), 0, offset)
        world.flush()
        told.append([e.detail for e in world.events.posted])

    world.join("alice", Hello(ack=False))
    publish(0)
    acking, _ = world.join("alice")
    publish(1)
    acking.abort()
    acking.connection_lost(None)
    publish(2)
    world.join("alice", Hello(ack=False))
    publish(3)
    assert told == [["no_acks"], [None], ["no_acks"], ["no_acks"]]
