"""Signals at the hub: the other devices learn, the one that said it does not; sessions that are over end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from notifyd.delivery.signal import EndSignal, StateSignal, encode_signal
from notifyd.push import signals
from notifyd.push.connection import Connection
from notifyd.push.peer import State
from notifyd.push.protocol import Hello
from tests.fixtures.push import FakeTransport
from tests.unit.push.test_hub import World, masked


class FakeSignals:
    """A signal sink in memory."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str, list[str], str]] = []

    def post(self, user: str, changed: str, ids: Sequence[str], by: str) -> None:
        self.posted.append((user, changed, list(ids), by))


@pytest.fixture
async def world() -> World:
    return World()


def said(by: str = "", ids: Sequence[str] = ("m1",), changed: str = "read") -> bytes:
    return encode_signal(StateSignal(ids=list(ids), set=changed, by=by))  # type: ignore[arg-type]


def sample(world: World, name: str, **labels: str) -> float:
    return world.metrics.registry.get_sample_value(name, labels) or 0.0


def bad(world: World) -> float:
    return sample(world, "notifyd_invalid_records_total", role="ws", reason="bad_signal")


async def test_all_devices_of_the_user_learn_but_the_one_that_said_it(world):
    phone, on_phone = world.join()
    _, on_laptop = world.join()
    _, on_desk = world.join(hello=Hello(ack=False))
    _, of_bob = world.join("bob")
    world.hub.take_signal(b"alice", said(by=phone.session, ids=("m1", "m2")))
    state = {"op": "state", "ids": ["m1", "m2"], "set": "read"}
    assert world.frames(on_laptop) == world.frames(on_desk) == [state]
    assert world.frames(on_phone) == world.frames(of_bob) == []
    assert sample(world, "notifyd_ws_states_sent_total") == 2
    world.hub.take_signal(b"alice", said(by="of-another-pod", changed="archived"))
    assert [f["set"] for f in (*world.frames(on_phone), *world.frames(on_laptop))] == ["archived"] * 2


async def test_seen_and_read_are_signalled_once_durable_and_acks_are_not(world):
    sink = FakeSignals()
    world.hub._receipts._signals = sink
    connection, transport = world.join()
    message = world.message()
    world.hub.publish(message, 0, 0)
    world.events.gate.clear()
    for op in ("ack", "seen", "read"):
        connection.data_received(masked(json.dumps({"op": op, "ids": [message.id, "nonsense"]}).encode()))
    await settle()
    assert sink.posted == []
    world.events.gate.set()
    await settle()
    assert sink.posted == [
        ("alice", "seen", [message.id], connection.session),
        ("alice", "read", [message.id], connection.session),
    ]
    assert [frame["op"] for frame in world.frames(transport)] == ["msg", "ok", "ok", "ok"]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_was_not_made_durable_is_not_signalled(world):
    sink = FakeSignals()
    world.hub._receipts._signals = sink
    world.events.error = RuntimeError("no")
    connection, _ = world.join()
    message = world.message()
    world.hub.publish(message, 0, 0)
    connection.data_received(masked(json.dumps({"op": "read", "ids": [message.id]}).encode()))
    await settle()
    assert sink.posted == []


async def test_the_signal_of_a_user_who_is_elsewhere_is_not_read_whole(world, monkeypatch):
    monkeypatch.setattr(signals, "decode_signal", lambda value: pytest.fail("read whole"))
    world.join("bob")
    world.hub.take_signal(b"alice", said())
    world.hub.take_signal(b"bob", b'{"op":"later"}')
    assert bad(world) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"alice", None),
        (b"alice", b"\x00garbage"),
        (b"alice", b'{"op":"state","ids":"m1","set":"read"}'),
        (b"alice", b'{"op":"end"}'),
        (None, said()),
        (b"", said()),
        (b"\xff", said()),
    ],
)
async def test_poison_is_counted_and_reaches_nobody(world, key, value):
    _, transport = world.join()
    world.hub.take_signal(key, value)
    assert bad(world) == 1
    assert world.frames(transport) == []
    world.hub.take_signal(b"alice", said())
    assert len(world.frames(transport)) == 1


async def test_sessions_end_whose_token_is_older_and_others_stay(world):
    old, _ = join_at(world, 1000.0)
    untold, _ = join_at(world, 0.0)
    new, _ = join_at(world, 2000.0)
    bob, _ = world.join("bob")
    world.hub.take_signal(b"alice", encode_signal(EndSignal(before=2_000_000)))
    assert [c.state.value for c in (old, untold, new, bob)] == ["closing", "closing", "open", "open"]
    # It comes again with the same token, and with another.
    again, transport = join_at(world, 1999.0)
    assert again.state.value == "closing"
    assert (4401).to_bytes(2, "big") in transport.writes[-1]
    assert join_at(world, 2000.0)[0].state.value == "open"
    # An older signal that comes late takes nothing back.
    world.hub.take_signal(b"alice", encode_signal(EndSignal(before=1_000_000)))
    assert join_at(world, 1999.0)[0].state.value == "closing"


def join_at(world: World, issued_at_s: float) -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(world.hub, lambda c, h: None), FakeTransport()
    connection.connection_made(transport)
    world.hub.accept(connection)
    connection.state = State.VERIFYING
    world.hub.join(connection, "alice", 2e9, Hello(), issued_at_s=issued_at_s)
    return connection, transport


async def test_only_so_many_ends_are_remembered(world, monkeypatch):
    monkeypatch.setattr(signals, "MAX_ENDED", 3)
    for n in range(5):
        world.hub.take_signal(f"user-{n}".encode(), encode_signal(EndSignal(before=10_000)))
    ended = world.hub._signals
    assert [ended.is_ended(f"user-{n}", 5.0) for n in range(5)] == [False, False, True, True, True]
