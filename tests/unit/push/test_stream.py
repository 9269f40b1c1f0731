"""A stream of server-sent events as a peer of the hub, with a transport that writes to a list."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from notifyd.metrics import Metrics
from notifyd.push import encoding
from notifyd.push.acks import read_marks
from notifyd.push.connection import Connection
from notifyd.push.cursor import Cursor, encode_cursor
from notifyd.push.hub import Hub
from notifyd.push.peer import Frame, State
from notifyd.push.protocol import MAX_IDS, MAX_VERSIONS, CloseCode, Hello
from notifyd.push.requests import Refusal
from notifyd.push.sse import read_hello
from notifyd.push.stream import EventStream, encode_event
from notifyd.push.unacked import AFTER_S, LOOK_S
from tests.fixtures.push import FakeEvents, FakeTransport, make_message, payloads, push_settings


class World:
    def __init__(self, **overrides: Any) -> None:
        self.at_s = time.time()
        self.metrics = Metrics()
        self.events = FakeEvents()
        self.hub = Hub(
            push_settings(**overrides),
            self.metrics,
            self.events,
            "pod",
            incarnation="inc",
            now=lambda: self.at_s,
            monotonic=lambda: self.at_s,
        )

    def open(self, user: str = "alice", hello: Hello | None = None) -> tuple[EventStream, FakeTransport]:
        stream, transport = EventStream(self.hub), FakeTransport()
        self.hub.accept(stream)
        self.hub.join(stream, user, 4e9, hello or Hello(), may_wait=False)
        if stream.refusal is None:
            stream.connection_made(transport)
        return stream, transport

    def events_of(self, transport: FakeTransport) -> list[Any]:
        self.hub._outbox.flush()
        texts = b"".join(transport.writes).decode().split("\n\n")
        transport.writes.clear()
        assert texts.pop() == ""
        return [json.loads(text.rpartition("data: ")[2]) for text in texts]


@pytest.fixture
async def world() -> World:
    return World()


def test_only_what_names_a_cursor_has_an_id():
    assert encode_event(Frame(b'{"op":"msg"}')) == b'data: {"op":"msg"}\n\n'
    pos = Frame(b'{"op":"pos","cursor":"1ab"}', cursor="1ab")
    assert encode_event(pos) == b'id: 1ab\ndata: {"op":"pos","cursor":"1ab"}\n\n'


async def test_what_is_encoded_for_sockets_is_sent_to_streams_too(world, monkeypatch):
    calls = []
    original = encoding.public_envelope
    monkeypatch.setattr(encoding, "public_envelope", lambda *a: calls.append(a) or original(*a))
    _, written = world.open()
    socket, transport = Connection(world.hub, lambda c, h: None), FakeTransport()
    socket.connection_made(transport)
    world.hub.accept(socket)
    socket.state = State.VERIFYING
    world.hub.join(socket, "alice", 4e9, Hello())
    world.events_of(written)
    transport.writes.clear()
    assert world.hub.publish(make_message(), 3, 0) == 2
    [event] = world.events_of(written)
    [frame] = [json.loads(p) for write in transport.writes for p in payloads(write)]
    assert event == frame
    assert len(calls) == 1
    # One event for the user, however it was written.
    assert [event.stage for event in world.events.posted] == ["sent"]


async def test_what_is_due_together_is_written_at_once_in_order(world):
    _, transport = world.open()
    world.events_of(transport)
    for offset in range(20):
        world.hub.publish(make_message(), 3, offset)
    world.hub._outbox.flush()
    assert len(transport.writes) == 1
    assert [event["at"] for event in world.events_of(transport)] == [f"3:{n}" for n in range(20)]


async def test_a_paused_stream_keeps_what_is_due_and_goes_on(world):
    stream, transport = world.open()
    world.events_of(transport)
    stream.pause_writing()
    for offset in range(3):
        world.hub.publish(make_message(), 3, offset)
    assert world.events_of(transport) == []
    stream.resume_writing()
    assert [event["at"] for event in world.events_of(transport)] == ["3:0", "3:1", "3:2"]


async def test_one_that_does_not_read_is_cut_at_the_bound(world):
    stream, transport = world.open()
    world.events_of(transport)
    stream.pause_writing()
    transport.buffered = world.hub.limits.max_unsent_bytes + 1
    assert world.hub.publish(make_message(), 3, 0) == 0
    assert transport.is_aborted
    stream.connection_lost(None)
    assert (world.hub.connections, world.hub.sockets) == (0, 0)


async def test_a_welcome_waits_for_room_behind_what_was_missed():
    world = World(ws_max_unsent_bytes=64 * 1024)
    world.hub.begin(3, 0)
    for offset in range(2):
        world.hub.publish(make_message(body="x" * 40_000), 3, offset)
    stream, transport = EventStream(world.hub), FakeTransport()
    world.hub.accept(stream)
    stream.connection_made(transport)
    stream.pause_writing()
    world.hub.join(stream, "alice", 4e9, Hello(cursor=encode_cursor(Cursor("inc", {3: 0}))), may_wait=False)
    for _ in range(3):
        world.hub._replays.run()
    assert stream.unsent > 80_000
    assert not transport.is_aborted
    stream.resume_writing()
    world.hub._outbox.flush()
    world.hub._replays.run()
    *messages, last = world.events_of(transport)
    assert [event["at"] for event in messages] == ["3:0", "3:1"]
    assert (last["op"], last["missing"]) == ("welcome", None)


async def test_unacknowledged_messages_are_not_sent_again_on_a_stream(world):
    # Its acks may have gone to any other process.
    stream, transport = world.open()
    world.hub.publish(make_message(), 3, 0)
    world.events_of(transport)
    for _ in range(int(2 * (AFTER_S + LOOK_S))):
        world.at_s += 1
        world.hub.tick()
    assert world.events_of(transport) == []
    assert stream.unacked is None


async def test_a_stream_that_the_hub_refuses_knows_why_before_it_has_a_socket():
    world = World(ws_max_connections_per_user=1)
    world.open()
    stream, _ = world.open()
    assert stream.refusal is not None
    assert stream.refusal[0] is CloseCode.TOO_MANY_CONNECTIONS
    stream.connection_lost(None)
    assert (world.hub.connections, world.hub.sockets) == (1, 1)


async def test_the_last_words_leave_before_the_end(world):
    stream, transport = world.open()
    world.hub.publish(make_message(), 3, 0)
    stream.close(CloseCode.INTERNAL, "a fault")
    assert [event["op"] for event in world.events_of(transport)] == ["welcome", "msg", "error"]
    assert transport.is_closed
    assert not transport.is_aborted
    stream.close(CloseCode.GOING_AWAY)
    assert world.hub.publish(make_message(), 3, 1) == 0


async def test_a_message_to_who_is_leaving_is_counted_for_nobody(world):
    stream, _ = world.open()
    stream.eof_received()
    assert world.hub.publish(make_message(), 3, 0) == 0
    stream.connection_lost(None)
    assert world.metrics.registry.get_sample_value("notifyd_ws_closes_total", {"code": "1000"}) == 1
    assert world.metrics.registry.get_sample_value("notifyd_ws_closes_total", {"code": "1006"}) is None
    assert world.hub.sockets == 0


def test_what_a_browser_says_in_the_header_is_newer_than_its_url():
    query = MultiDict([("cursor", "old"), ("at", "3:1"), ("at", "4:2"), ("content", "1"), ("ack", "false")])
    assert read_hello(query, None) == Hello(cursor="old", at=("3:1", "4:2"), content=("1",), ack=False)
    assert read_hello(query, "new").cursor == "new"
    assert read_hello(MultiDict(), None) == Hello()
    assert read_hello(MultiDict([("cursor", "")]), "").cursor is None


@given(
    query=st.lists(
        st.tuples(st.sampled_from(["cursor", "at", "content", "ack", "other"]), st.text(max_size=40)),
        max_size=12,
    ),
    header=st.none() | st.text(max_size=40),
)
def test_any_query_is_read_or_refused(query, header):
    try:
        hello = read_hello(MultiDict(query), header)
    except Refusal as refusal:
        assert refusal.status == 400
        assert {error["parameter"] for error in refusal.errors} <= {"cursor", "at", "content", "ack"}
    else:
        assert len(hello.content) <= MAX_VERSIONS


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["ack", "seen", "read", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


_ids = st.lists(st.text(max_size=70), max_size=3)
_acks = st.dictionaries(st.sampled_from(["ack", "seen", "read", "session"]), _ids | st.text(max_size=70))


@given(body=(_anything | _acks).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_any_body_of_acks_is_read_or_refused(body):
    try:
        _, marks = read_marks(body)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert marks
        assert all(0 < len(mark.ids) <= MAX_IDS for mark in marks)
