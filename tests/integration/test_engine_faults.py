"""What breaks inside the engine, or below it, ends the role loudly: nothing goes on half alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException, TopicAuthorizationFailedError

from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.batch import Batch
from notifyd.stream.consumer import EngineConsumer
from notifyd.stream.engine import Agent, EngineApp, EngineOptions
from tests.fixtures.engines import committed, make_topic, new_group, produce
from tests.fixtures.waiting import eventually


class Run:
    """An engine with a bare agent, and the errors that it ended with."""

    def __init__(self, app: EngineApp, topic: str, failures: list[Exception]) -> None:
        self.app = app
        self.topic = topic
        self.failures = failures

    @property
    def consumer(self) -> EngineConsumer:
        return self.app.engine_consumer

    async def failure(self) -> Exception:
        return (await eventually(lambda: self.failures, what="the role to end", timeout_s=15))[0]


async def ack_all(stream: AsyncIterator[Batch]) -> None:
    async for batch in stream:
        batch.ack_all()


@asynccontextmanager
async def running(settings: Settings, agent: Agent = ack_all) -> AsyncIterator[Run]:
    topic = await make_topic(settings, "faults", partitions=1)
    failures: list[Exception] = []
    app = EngineApp(
        EngineOptions(
            role="test", group=new_group(), settings=settings, metrics=Metrics(), fail=failures.append
        )
    )
    app.add_agent([topic], agent, name="test")
    await app.start()
    try:
        await eventually(lambda: app.is_joined, what="the group")
        yield Run(app, topic, failures)
    finally:
        await asyncio.wait_for(app.stop(), 20)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError(), None])
async def test_an_agent_that_ends_ends_the_role(settings: Settings, error: BaseException | None) -> None:
    async def agent(stream: AsyncIterator[Batch]) -> None:
        async for _ in stream:
            if error is not None:
                raise error
            return

    async with running(settings, agent) as run:
        await produce(settings, run.topic, [b"one"])
        assert "agent test" in str(await run.failure())
        assert await committed(settings, run.app.options.group, run.topic, 1) in ([0], [None])


async def test_a_stop_is_no_failure(settings: Settings) -> None:
    async with running(settings) as run:
        await produce(settings, run.topic, [b"one"])
    assert not run.failures


def break_reading(error: BaseException) -> Callable[[EngineConsumer], None]:
    def break_it(consumer: EngineConsumer) -> None:
        async def take(_: Any) -> None:
            raise error

        consumer._poller.take = take  # type: ignore[method-assign, union-attr, assignment]

    return break_it


def break_fetched(error: Exception) -> Callable[[EngineConsumer], None]:
    def break_it(consumer: EngineConsumer) -> None:
        async def fetched_records(*_: Any, **__: Any) -> None:
            raise error

        consumer.client._fetcher.fetched_records = fetched_records

    return break_it


def break_commits(error: Exception) -> Callable[[EngineConsumer], None]:
    def break_it(consumer: EngineConsumer) -> None:
        async def commit(_: Any) -> None:
            raise error

        consumer.client.commit = commit

    return break_it


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(break_reading(ValueError("offsets do not rise")), id="ledger"),
        pytest.param(break_reading(asyncio.CancelledError()), id="stray cancel"),
        pytest.param(break_fetched(CorruptRecordException("bad CRC")), id="corrupt record"),
        pytest.param(break_fetched(OverflowError("codec")), id="codec"),
        pytest.param(break_fetched(TopicAuthorizationFailedError("t")), id="not authorised to read"),
        pytest.param(break_commits(AssertionError("no assignment")), id="commit"),
        pytest.param(break_commits(TopicAuthorizationFailedError("t")), id="not authorised to commit"),
        pytest.param(lambda consumer: consumer.client._fetcher._fetch_task.cancel(), id="fetch task"),
        pytest.param(
            lambda consumer: consumer.client._coordinator._coordination_task.cancel(), id="coordination task"
        ),
    ],
)
async def test_what_breaks_below_the_agents_ends_the_role(
    settings: Settings, break_it: Callable[[EngineConsumer], None]
) -> None:
    async with running(settings) as run:
        break_it(run.consumer)
        await produce(settings, run.topic, [b"one", b"two"])
        await run.failure()


async def test_a_rebalance_that_fails_ends_the_role(settings: Settings) -> None:
    async with running(settings) as run:

        async def assigned(_: Any) -> None:
            raise RuntimeError("a bug")

        run.consumer._on_partitions_assigned = assigned  # type: ignore[assignment]
        run.consumer.client._coordinator.request_rejoin()
        assert str(await run.failure()) == "a bug"


async def test_a_service_of_faust_that_crashes_ends_the_role(settings: Settings) -> None:
    async with running(settings) as run:
        await run.app.topics.crash(RuntimeError("a bug of theirs"))  # type: ignore[attr-defined]
        assert str(await run.failure()) == "a bug of theirs"


async def test_there_is_no_time_of_a_poll_before_the_first(settings: Settings) -> None:
    consumer = EngineApp(
        EngineOptions(role="test", group="g", settings=settings, metrics=Metrics(), fail=lambda error: None)
    ).engine_consumer
    await consumer.on_start()
    try:
        assert consumer.polled_at is None  # or a broker that goes away now would make us look stuck
    finally:
        await consumer.on_stop()
