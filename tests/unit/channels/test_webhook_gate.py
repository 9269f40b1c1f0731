import asyncio

from notifyd.channels.gate import Gate, Place


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(limit: int = 2) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(limit, warm_s=4.0, clock=clock), clock


async def enter(door: Gate, host: str = "a") -> Place:
    place = await door.enter(host)
    assert place is not None
    return place


async def test_hosts_do_not_share_places() -> None:
    door, _ = gate(1)
    await enter(door, "a")
    assert await door.enter("b") is not None


async def test_a_host_that_hangs_is_busy_at_once() -> None:
    door, clock = gate(2)
    await enter(door)
    await enter(door)
    clock.now += 3
    assert await asyncio.wait_for(door.enter("a"), 0.9) is None


async def test_a_host_known_to_be_slow_is_busy_at_once() -> None:
    door, clock = gate(1)
    for _ in range(30):
        place = await enter(door)
        clock.now += 10
        door.leave(place)
    await enter(door)
    assert await asyncio.wait_for(door.enter("a"), 0.9) is None


async def test_a_quick_host_is_waited_for() -> None:
    door, _ = gate(1)
    first = await enter(door)
    second = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    assert not second.done()
    door.leave(first)
    assert await second is not None


async def test_a_wait_ends() -> None:
    door, _ = gate(1)
    await enter(door)
    assert await door.enter("a") is None


async def test_who_gives_up_waiting_takes_no_place_along() -> None:
    door, _ = gate(1)
    first = await enter(door)
    waits = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    door.leave(first)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert await door.enter("a") is not None


async def test_never_more_than_the_limit() -> None:
    door, _ = gate(3)
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        place = await enter(door)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        door.leave(place)

    await asyncio.gather(*(call() for _ in range(50)))
    assert most == 3


async def test_a_place_is_warm_only_after_a_recent_call() -> None:
    door, clock = gate()
    first = await enter(door)
    assert not first.is_warm
    door.leave(first)
    clock.now += 3.9
    second = await enter(door)
    assert second.is_warm
    door.leave(second)
    clock.now += 4
    assert not (await enter(door)).is_warm


async def test_quiet_hosts_are_forgotten_and_busy_ones_are_not() -> None:
    door, _ = gate(1)
    held = await enter(door, "held")
    for number in range(5000):
        door.leave(await enter(door, f"host-{number}"))
    assert len(door._hosts) <= 4097
    assert "held" in door._hosts
    door.leave(held)
