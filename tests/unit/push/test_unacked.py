"""What nobody acknowledged comes again, a few times, and only to who acknowledges at all."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from notifyd.metrics import Metrics
from notifyd.push.connection import Connection
from notifyd.push.hub import Hub
from notifyd.push.peer import State
from notifyd.push.protocol import Hello, Mark
from notifyd.push.unacked import AFTER_S, LOOK_S, PER_CONNECTION, TRIES
from tests.fixtures.push import FakeEvents, FakeTransport, make_message, payloads, push_settings


class World:
    def __init__(self) -> None:
        self.at_s = time.time()
        self.hub = Hub(
            push_settings(),
            Metrics(),
            FakeEvents(),
            "pod",
            now=lambda: self.at_s,
            monotonic=lambda: self.at_s,
        )

    def join(self, hello: Hello) -> tuple[Connection, FakeTransport]:
        connection, transport = Connection(self.hub, lambda c, h: None), FakeTransport()
        connection.connection_made(transport)
        self.hub.accept(connection)
        connection.state = State.VERIFYING
        self.hub.join(connection, "alice", 4e9, hello)
        return connection, transport

    def frames_after(self, transport: FakeTransport, seconds: float) -> list[dict[str, Any]]:
        """Let time pass as the sweep would see it; return the messages that came."""
        end_s = self.at_s + seconds
        while self.at_s < end_s:
            self.at_s = min(end_s, self.at_s + 1)
            self.hub.tick()
        self.hub._outbox.flush()
        texts = [json.loads(p) for write in transport.writes for p in payloads(write)]
        transport.writes.clear()
        frames = [frame for one in texts for frame in (one if isinstance(one, list) else [one])]
        return [frame for frame in frames if frame["op"] == "msg"]


@pytest.fixture
async def world() -> World:
    return World()


async def test_it_comes_again_three_times_without_a_place(world):
    _, transport = world.join(Hello())
    message = make_message()
    world.hub.publish(message, 0, 0)
    assert [frame["at"] for frame in world.frames_after(transport, 1)] == ["0:0"]
    assert world.frames_after(transport, AFTER_S - LOOK_S - 1) == []
    for _ in range(TRIES):
        [again] = world.frames_after(transport, AFTER_S)
        assert (again["resend"], again["message"]["UUID"]) == (True, message.id)
        assert "at" not in again
    assert world.frames_after(transport, 10 * AFTER_S) == []
    assert len(world.hub._unacked._watched) == 0


@pytest.mark.parametrize("op", ["ack", "seen", "read"])
async def test_what_a_client_speaks_of_it_has(world, op):
    connection, transport = world.join(Hello())
    message = make_message()
    world.hub.publish(message, 0, 0)
    world.frames_after(transport, 1)
    world.hub.take_mark(connection, Mark(op, [message.id.upper(), "nonsense"]))
    assert world.frames_after(transport, 5 * AFTER_S) == []
    assert connection.unacked is None


async def test_one_device_does_not_ack_for_another(world):
    first, _ = world.join(Hello())
    _, transport = world.join(Hello())
    message = make_message()
    world.hub.publish(message, 0, 0)
    world.frames_after(transport, 1)
    world.hub.take_mark(first, Mark("ack", [message.id]))
    assert len(world.frames_after(transport, AFTER_S + LOOK_S)) == 1


async def test_who_acks_nothing_is_left_alone_and_so_is_what_has_expired(world):
    _, silent = world.join(Hello(ack=False))
    _, transport = world.join(Hello())
    world.hub.publish(make_message(ttl=20), 0, 0)
    assert len(world.frames_after(transport, 1)) == 1
    assert world.frames_after(transport, 5 * AFTER_S) == []
    assert len(world.frames_after(silent, 1)) == 1


async def test_the_list_of_a_connection_is_short(world):
    connection, transport = world.join(Hello())
    messages = [make_message() for _ in range(PER_CONNECTION + 5)]
    for offset, message in enumerate(messages):
        world.hub.publish(message, 0, offset)
    world.frames_after(transport, 1)
    again = world.frames_after(transport, AFTER_S + LOOK_S)
    assert [frame["message"]["UUID"] for frame in again] == [message.id for message in messages[5:]]
    connection.connection_lost(None)
    assert world.frames_after(transport, 2 * AFTER_S) == []
