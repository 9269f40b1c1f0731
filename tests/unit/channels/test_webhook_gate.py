import asyncio

from prometheus_client import Gauge

from notifyd.channels.gate import DOWN_AFTER, PROBE_S, PUT_OFF_S, SOON, Closed, Gate, Place


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(limit: int = 2) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(limit, warm_s=4.0, clock=clock, down=Gauge("down", "down", registry=None)), clock


async def enter(door: Gate, host: str = "a") -> Place:
    place = await door.enter(host)
    assert isinstance(place, Place)
    return place


async def enter_of(entering: asyncio.Task[Place | Closed]) -> Place:
    place = await asyncio.wait_for(entering, 2)
    assert isinstance(place, Place)
    return place


async def test_hosts_do_not_share_places() -> None:
    door, _ = gate(1)
    await enter(door, "a")
    assert isinstance(await door.enter("b"), Place)


async def test_a_host_has_few_places_until_it_has_answered() -> None:
    door, clock = gate(20)
    places = [await enter(door) for _ in range(5)]
    sixth = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    assert not sixth.done()
    clock.now += 0.01
    door.leave(places.pop(), has_failed=True)
    places.append(await enter_of(sixth))
    last = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    assert not last.done(), "a failure is no answer"
    door.leave(places.pop(), has_failed=False)
    places.append(await enter_of(last))
    places += [await enter(door) for _ in range(15)]
    one_more = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    assert not one_more.done()
    one_more.cancel()


async def test_the_first_that_come_for_a_host_wait_for_its_first_answer() -> None:
    door, clock = gate(20)
    entering = [asyncio.create_task(door.enter("a")) for _ in range(200)]
    await asyncio.sleep(0)
    found = [task.result() for task in entering if task.done()]
    assert len(found) == 5
    clock.now += 0.05
    for place in found:
        assert isinstance(place, Place)
        door.leave(place, has_failed=False)
    entered = [await enter_of(task) for task in entering[5:25]]
    assert len(entered) == 20
    for task in entering[25:]:
        task.cancel()


async def test_a_host_that_hangs_is_busy_at_once() -> None:
    door, clock = gate(2)
    await enter(door)
    await enter(door)
    clock.now += 3
    assert await asyncio.wait_for(door.enter("a"), 0.9) == Closed("host_busy")


async def test_a_host_known_to_be_slow_is_busy_at_once() -> None:
    door, clock = gate(1)
    for _ in range(30):
        place = await enter(door)
        clock.now += 10
        door.leave(place)
    await enter(door)
    assert await asyncio.wait_for(door.enter("a"), 0.9) == Closed("host_busy")


async def test_a_quick_host_is_waited_for() -> None:
    door, _ = gate(1)
    first = await enter(door)
    second = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    assert not second.done()
    door.leave(first)
    assert isinstance(await second, Place)


async def test_a_wait_ends() -> None:
    door, _ = gate(1)
    await enter(door)
    assert await door.enter("a") == Closed("host_busy")


async def test_who_gives_up_waiting_takes_no_place_along() -> None:
    door, _ = gate(1)
    first = await enter(door)
    waits = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    door.leave(first)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert isinstance(await door.enter("a"), Place)


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


async def fail(door: Gate, times: int) -> None:
    for _ in range(times):
        door.leave(await enter(door), has_failed=True)


async def test_a_host_that_failed_many_calls_is_asked_by_one_in_a_while() -> None:
    door, clock = gate(20)
    await fail(door, DOWN_AFTER - 1)
    await fail(door, 1)
    assert await door.enter("a") == Closed("host_down")
    assert isinstance(await door.enter("b"), Place)
    clock.now += PROBE_S
    probe = await enter(door)
    assert await door.enter("a") == Closed("host_down")
    door.leave(probe, has_failed=True)
    clock.now += PROBE_S
    probe = await enter(door)
    door.leave(probe, has_failed=False)
    assert isinstance(await door.enter("a"), Place)
    assert isinstance(await door.enter("a"), Place)


async def test_few_of_those_for_a_host_that_is_down_come_back_soon() -> None:
    door, clock = gate(20)
    await fail(door, DOWN_AFTER)
    for _ in range(3):
        waits = [await door.enter("a") for _ in range(SOON + 5)]
        assert waits == [Closed("host_down")] * SOON + [Closed("host_down", PUT_OFF_S)] * 5
        clock.now += PROBE_S
        door.leave(await enter(door), has_failed=True)


async def test_who_has_many_ahead_at_a_host_that_hangs_comes_back_later() -> None:
    door, clock = gate(2)
    await enter(door)
    await enter(door)
    clock.now += 3
    waits = [await door.enter("a") for _ in range(40)]
    # Each of two places is taken for three seconds at least.
    assert waits == [Closed("host_busy")] * 19 + [Closed("host_busy", PUT_OFF_S)] * 21
    # Who comes back is not taken for one more.
    clock.now += 5
    assert await door.enter("a") == Closed("host_busy")


async def test_who_comes_in_a_crowd_before_the_first_answer_comes_back_soon() -> None:
    door, clock = gate(200)
    for _ in range(5):
        await enter(door)
    clock.now += 0.5
    # As after a start with a backlog: a minute's work of five places, and two seconds' of all.
    lines = [asyncio.create_task(door.enter("a")) for _ in range(600)]
    waits = [line.result() for line in (await asyncio.wait(lines))[0]]
    assert set(waits) == {Closed("host_busy")}
    clock.now += 4.6
    waits = [await door.enter("a") for _ in range(20)]
    assert set(waits) == {Closed("host_busy", PUT_OFF_S)}, "it hangs"


async def test_only_failures_in_a_row_count_and_only_the_hosts_own() -> None:
    door, _ = gate(20)
    for has_failed in (False, None):
        await fail(door, DOWN_AFTER - 1)
        door.leave(await enter(door), has_failed=has_failed)
        if has_failed is None:
            await fail(door, 1)
            assert await door.enter("a") == Closed("host_down")
        else:
            await fail(door, DOWN_AFTER - 1)
            door.leave(await enter(door), has_failed=False)


async def test_who_waited_while_it_went_down_does_not_go_in() -> None:
    door, _ = gate(1)
    await fail(door, DOWN_AFTER - 1)
    last = await enter(door)
    waiting = asyncio.create_task(door.enter("a"))
    await asyncio.sleep(0)
    door.leave(last, has_failed=True)
    assert await waiting == Closed("host_down")


async def test_hosts_that_are_down_are_counted() -> None:
    door, clock = gate(5)
    await fail(door, DOWN_AFTER)
    assert door._down._value.get() == 1
    clock.now += PROBE_S
    door.leave(await enter(door), has_failed=False)
    assert door._down._value.get() == 0
