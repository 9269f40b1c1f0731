"""Places for tasks: who holds one for long makes room, and none is ever lost or made up."""

from __future__ import annotations

import asyncio
import random

import pytest

from notifyd.stream.turns import Slots
from tests.fixtures.waiting import eventually


async def test_places_are_given_in_the_order_of_asking() -> None:
    slots = Slots(1)
    first = slots.take()
    assert first
    assert not slots.take()
    order: list[str] = []

    async def ask(name: str) -> None:
        place = await slots.wait()
        order.append(name)
        slots.free(place)

    asking = [asyncio.create_task(ask(name)) for name in "abc"]
    await asyncio.sleep(0)
    asking[1].cancel()
    slots.free(first)
    await asyncio.wait(asking)
    assert order == ["a", "c"]


async def test_who_is_slow_makes_room_and_takes_no_place_when_it_ends() -> None:
    slots = Slots(2, aside=1, slow_s=0.01)
    slow = [slots.take(), slots.take()]
    place = await asyncio.wait_for(slots.wait(), 5)
    # One may be aside; the second that is slow keeps its place.
    waiting = asyncio.create_task(slots.wait())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    slots.free(slow[0])  # there is room aside again, and another one that is slow
    last = await asyncio.wait_for(waiting, 5)
    for held in (place, slow[1], last):
        slots.free(held)
    assert [bool(slots.take()) for _ in range(3)] == [True, True, False]


async def test_without_room_aside_a_slow_one_keeps_its_place() -> None:
    slots = Slots(1, slow_s=0.01)
    held = slots.take()
    waiting = asyncio.create_task(slots.wait())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    slots.free(held)
    assert await asyncio.wait_for(waiting, 5)


async def test_who_is_cancelled_just_as_it_was_given_a_place_gives_it_back() -> None:
    slots = Slots(1)
    held = slots.take()
    waiting = asyncio.create_task(slots.wait())
    await asyncio.sleep(0)
    slots.free(held)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert slots.take()


@pytest.mark.parametrize("seed", range(10))
async def test_however_they_come_and_go_never_too_many_hold_a_place_and_all_come_back(seed: int) -> None:
    rng = random.Random(seed)
    count, aside = rng.randint(1, 4), rng.randint(0, 4)
    slots = Slots(count, aside=aside, slow_s=0.002)
    held = most = 0

    async def hold(for_s: float) -> None:
        nonlocal held, most
        place = slots.take() or await slots.wait()
        held += 1
        most = max(most, held)
        try:
            await asyncio.sleep(for_s)
        finally:
            held -= 1
            slots.free(place)

    tasks = []
    for _ in range(200):
        task = asyncio.create_task(hold(rng.choice((0, 0, 0.001, 0.004, 0.01))))
        tasks.append(task)
        if rng.random() < 0.1:
            asyncio.get_running_loop().call_later(rng.random() * 0.05, task.cancel)
        if rng.random() < 0.2:
            await asyncio.sleep(0.001)
    await eventually(lambda: all(task.done() for task in tasks), what="all to have had their place")
    assert count <= most <= count + aside
    assert [bool(slots.take()) for _ in range(count + 1)] == [True] * count + [False]
