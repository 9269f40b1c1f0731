"""Who is turned away for good, and who is not: a process that was held up blames no client."""

from __future__ import annotations

from functools import partial

import pytest

from notifyd.push.connection import Connection
from notifyd.push.crowd import ANSWER_S, MAX_WAITING
from notifyd.push.peer import State
from notifyd.push.protocol import Hello
from tests.fixtures.push import FakeTransport
from tests.unit.push.test_hub import World


@pytest.fixture
async def world() -> World:
    return World(ws_max_connections_per_user=2, ws_hello_timeout_s=5)


def knock(world: World) -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(world.hub, lambda c, h: None), FakeTransport()
    connection.connection_made(transport)
    world.hub.accept(connection)
    return connection, transport


def look(world: World, after_s: float) -> None:
    world.at_s += after_s
    world.hub._sweep.run_due()


def closed_with(transport: FakeTransport, code: int) -> bool:
    return any(code.to_bytes(2, "big") in write for write in transport.writes)


async def test_a_hello_that_is_here_and_not_read_is_read_before_anyone_is_blamed(world):
    connection, transport = knock(world)
    look(world, 5.1)
    assert connection.state is State.HELLO
    look(world, 0.1)
    assert connection.state is State.HELLO
    look(world, 0.2)
    assert connection.state is State.CLOSING
    assert closed_with(transport, 4408)


async def test_a_process_that_stood_still_gives_all_their_time_again(world):
    early, _ = knock(world)
    world.at_s += 3
    late, _ = knock(world)
    look(world, 2.1)  # the first is overdue by now
    world.at_s += 10
    world.hub._sweep.forgive(10.0)
    for after_s in (0.0, 0.3, 4.6):
        look(world, after_s)
        assert (early.state, late.state) == (State.HELLO, State.HELLO)
    look(world, 0.2)
    look(world, 0.3)
    assert (early.state, late.state) == (State.CLOSING, State.CLOSING)


async def test_the_clock_notices_that_it_was_held_up(world, monkeypatch):
    sweep, told = world.hub._sweep, []
    monkeypatch.setattr(sweep, "forgive", told.append)
    knock(world)
    for late_s in (0.3, 10.0, 0.25):
        world.at_s += late_s
        sweep._run()
    assert told == [pytest.approx(9.75)]


class Line:
    """The network of a peer, as the kernel would tell of it."""

    def __init__(self) -> None:
        self.is_dead = False


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> dict[int, Line]:
    found: dict[int, Line] = {}
    monkeypatch.setattr(
        Connection,
        "is_answering",
        property(lambda self: not (id(self) in found and found[id(self)].is_dead)),
    )
    return found


def joined(world: World, lines: dict[int, Line]) -> tuple[Connection, FakeTransport]:
    connection, transport = knock(world)
    lines[id(connection)] = Line()
    connection.state = State.VERIFYING
    world.hub.join(connection, "alice", 2e9, Hello())
    return connection, transport


async def test_one_that_is_known_to_be_dead_makes_room_at_once_the_oldest_first(world, lines):
    first, second = joined(world, lines)[0], joined(world, lines)[0]
    for one in (first, second):
        lines[id(one)].is_dead = True
    third, _ = joined(world, lines)
    assert third.state is State.OPEN
    assert (first.state, second.state) == (State.CLOSED, State.OPEN)
    assert world.hub.connections == 2


async def test_a_newcomer_waits_until_all_were_asked_and_then_joins_in_the_place_of_a_dead_one(world, lines):
    (first, _), (second, of_second) = joined(world, lines), joined(world, lines)
    world.frames(of_second)
    third, _ = joined(world, lines)
    assert third.state is State.VERIFYING
    assert [frame["op"] for frame in world.frames(of_second)] == ["pos"]
    look(world, 1.0)
    assert third.state is State.VERIFYING
    lines[id(second)].is_dead = True
    look(world, ANSWER_S - 1.0)
    assert (first.state, second.state, third.state) == (State.OPEN, State.CLOSED, State.OPEN)


async def test_a_newcomer_joins_as_soon_as_one_leaves(world, lines):
    first, _ = joined(world, lines)
    joined(world, lines)
    third, _ = joined(world, lines)
    first.connection_lost(None)
    look(world, 0.25)
    assert third.state is State.OPEN


async def test_where_all_are_there_the_newcomer_is_refused_and_a_fifth_one_at_once(world, lines):
    joined(world, lines)
    joined(world, lines)
    waiting = [joined(world, lines) for _ in range(MAX_WAITING)]
    assert closed_with(joined(world, lines)[1], 4429)
    look(world, ANSWER_S - 0.1)
    assert {one.state for one, _ in waiting} == {State.VERIFYING}
    look(world, 0.2)
    assert all(closed_with(transport, 4429) for _, transport in waiting)
    assert world.hub.connections == 2


async def test_a_newcomer_that_leaves_meanwhile_is_forgotten(world, lines):
    first, _ = joined(world, lines)
    joined(world, lines)
    third, _ = joined(world, lines)
    third.connection_lost(None)
    first.connection_lost(None)
    look(world, ANSWER_S)
    assert world.hub.connections == 1
    assert world.hub._crowd._waiting == []


async def test_one_that_cannot_wait_is_refused_and_finds_room_when_it_comes_again(world, lines):
    joined(world, lines)
    second, _ = joined(world, lines)
    join = partial(world.hub.join, user="alice", expires_at_s=2e9, hello=Hello(), may_wait=False)
    for is_dead in (False, True):
        lines[id(second)].is_dead = is_dead
        connection, _ = knock(world)
        connection.state = State.VERIFYING
        join(connection)
        assert connection.state is (State.OPEN if is_dead else State.CLOSING)
