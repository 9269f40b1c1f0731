"""Two messages with one id: `persist` decides which is right, and the hub errs on the side of that one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notifyd.push.protocol import Hello
from tests.fixtures.waiting import eventually
from tests.unit.push.test_hub import World, masked


@pytest.fixture
async def world() -> World:
    return World()


def twins(world: World, first: Any = "alice", second: Any = "alice") -> tuple[Any, Any]:
    right = world.message(first, title="A")
    return right, world.message(second, id=right.id, title="B")


def titles(frames: list[Any]) -> list[str]:
    return [frame["message"]["content"]["title"] for frame in frames if frame["op"] == "msg"]


def refused(world: World) -> float:
    labels = {"role": "ws", "reason": "id_conflict"}
    return world.metrics.registry.get_sample_value("notifyd_invalid_records_total", labels) or 0.0


async def test_within_a_partition_the_later_one_is_refused(world):
    _, transport = world.join()
    first, second = twins(world)
    assert (world.hub.publish(first, 0, 5), world.hub.publish(second, 0, 6)) == (1, 0)
    assert titles(world.frames(transport)) == ["A"]
    assert refused(world) == 1


async def test_of_two_partitions_both_go_since_nobody_here_knows_who_was_first(world):
    _, transport = world.join()
    first, second = twins(world)
    assert (world.hub.publish(first, 0, 5), world.hub.publish(second, 1, 3)) == (1, 1)
    assert titles(world.frames(transport)) == ["A", "B"]
    assert refused(world) == 0
    # A third within one of the partitions is late for sure, and repeats of both are none.
    third = world.message(id=first.id, title="C")
    assert (world.hub.publish(third, 1, 4), world.hub.publish(first, 1, 9)) == (0, 1)


async def test_the_right_one_reaches_its_user_though_a_wrong_one_to_another_came_first(world):
    _, of_alice = world.join("alice")
    _, of_bob = world.join("bob")
    right, wrong = twins(world, "alice", "bob")
    world.hub.publish(wrong, 1, 3)
    world.hub.publish(right, 0, 5)
    assert titles(world.frames(of_alice)) == ["A"]
    assert titles(world.frames(of_bob)) == ["B"]


async def test_an_ack_names_the_bytes_where_one_of_them_was_for_this_user_and_leaves_it_open_else(world):
    alice, _ = world.join("alice")
    bob, _ = world.join("bob")
    first, second = twins(world, ["alice", "bob"], "alice")
    world.hub.publish(first, 0, 5)
    world.hub.publish(second, 1, 3)
    ack = masked(json.dumps({"op": "ack", "ids": [first.id]}).encode())
    bob.data_received(ack)
    await eventually(lambda: len(world.events.written) == 1)
    alice.data_received(ack)
    await eventually(lambda: len(world.events.written) == 2)
    assert [event.digest for event in world.events.written] == [first.digest, ""]


async def test_a_reader_that_went_back_and_finds_an_earlier_one_pushes_that_and_drops_the_other(world):
    connection, transport = world.join()
    first, second = twins(world)
    world.hub.publish(second, 0, 6)
    assert world.hub.publish(first, 0, 5) == 1
    assert world.hub.publish(second, 0, 6) == 0
    assert titles(world.frames(transport)) == ["B", "A"]
    connection.data_received(masked(json.dumps({"op": "ack", "ids": [first.id]}).encode()))
    await eventually(lambda: world.events.written)
    assert world.events.written[0].digest == first.digest


async def test_what_the_database_has_is_right_and_ends_the_doubt(world):
    connection, _ = world.join()
    right, wrong = twins(world)
    world.hub.publish(wrong, 1, 3)
    assert world.hub._replay(connection, right, None, None)
    assert world.hub.publish(wrong, 1, 4) == 0
    assert world.hub.publish(right, 0, 9) == 1


async def test_a_replay_follows_the_same_rule(world):
    first, second = twins(world)
    world.hub.begin(0, 0)
    world.hub.begin(1, 0)
    cursor = world.hub.cursor
    world.hub.publish(first, 0, 0)
    world.hub.publish(second, 0, 1)
    world.hub.publish(second, 1, 0)
    got: list[str] = []
    deliver = world.hub._replays._deliver

    def watched(peer: Any, message: Any, at: Any, place: Any) -> bool:
        is_sent = deliver(peer, message, at, place)
        got.extend([message.content.title] if is_sent else [])
        return is_sent

    world.hub._replays._deliver = watched
    connection, _ = world.join(hello=Hello(cursor=cursor))
    await eventually(lambda: connection.resume is None)
    assert got == ["A", "B"]
