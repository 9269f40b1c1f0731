from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    CommitFailedError,
    GroupCoordinatorNotAvailableError,
    TopicAuthorizationFailedError,
)
from faust.types import TP

from notifyd.metrics import Metrics
from notifyd.stream.commits import Commits
from notifyd.stream.flow import PartitionFlow


class Client:
    """Commits as it is told to: at once, after a gate, or with an error."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.begun: list[int] = []
        self.stored: list[int] = []

    async def commit(self, offsets: Mapping[Any, Any]) -> None:
        (offset,) = [value.offset for value in offsets.values()]
        self.begun.append(offset)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.stored.append(offset)


def _raise(error: BaseException) -> None:
    raise error


def commits_of(client: Client | None) -> tuple[Commits, list[BaseException]]:
    failures: list[BaseException] = []
    return Commits(client, Metrics(), "test", failures.append), failures


def flow_of(done: int = 3) -> PartitionFlow:
    flow = PartitionFlow(TP("t", 0), window=10, on_change=lambda: None, on_failure=_raise)
    flow.start_at(0)
    records = [SimpleNamespace(offset=offset, timestamp=0, value=b"") for offset in range(5)]
    flow.take(records, 5, 0)
    for offset in range(done):
        flow.ack(offset)
    return flow


async def test_a_commit_is_what_the_ledger_allows_and_is_not_repeated() -> None:
    client = Client()
    commits, _ = commits_of(client)
    flow = flow_of()
    await commits.routine([flow], limit_s=1)
    await commits.routine([flow], limit_s=1)
    assert client.stored == [3]


async def test_the_last_commit_of_an_assignment_ends_the_one_under_way() -> None:
    client = Client()
    client.gate.clear()  # the coordinator is away
    commits, _ = commits_of(client)
    flow = flow_of(done=1)
    routine = asyncio.create_task(commits.routine([flow], limit_s=60))
    while not client.begun:  # noqa: ASYNC110  the very step after it began
        await asyncio.sleep(0)
    flow.ack(1)
    last = asyncio.create_task(commits.last([flow], limit_s=60))
    await asyncio.wait_for(routine, 1)  # ended, though its commit was not
    client.gate.set()
    assert await asyncio.wait_for(last, 1)
    # The old place was never stored after the new one.
    assert client.stored == [2]


async def test_a_commit_under_way_ends_with_the_partitions_that_were_lost() -> None:
    client = Client()
    client.gate.clear()
    commits, _ = commits_of(client)
    routine = asyncio.create_task(commits.routine([flow_of()], limit_s=60))
    while not client.begun:  # noqa: ASYNC110  the very step after it began
        await asyncio.sleep(0)
    await asyncio.wait_for(commits.end_routine(), 1)
    await asyncio.wait_for(routine, 1)
    client.gate.set()
    await asyncio.sleep(0)
    # Repeated now, it would be signed as from a member of the present group.
    assert client.stored == []


async def test_a_commit_that_takes_too_long_is_given_up_and_comes_again() -> None:
    client = Client()
    client.gate.clear()
    commits, failures = commits_of(client)
    flow = flow_of()
    assert not await commits.last([flow], limit_s=0.01)
    client.gate.set()
    assert await commits.last([flow], limit_s=1)
    assert client.stored == [3]
    assert not failures


@pytest.mark.parametrize("error", [CommitFailedError(), GroupCoordinatorNotAvailableError()])
async def test_what_passes_or_what_the_group_decided_ends_nothing(error: Exception) -> None:
    client = Client()
    client.error = error
    commits, failures = commits_of(client)
    flow = flow_of()
    assert not await commits.last([flow], limit_s=1)
    assert flow.uncommitted == 3
    assert not failures


@pytest.mark.parametrize("error", [TopicAuthorizationFailedError("t"), AssertionError("a bug")])
async def test_what_no_repetition_mends_ends_the_role(error: Exception) -> None:
    client = Client()
    client.error = error
    commits, failures = commits_of(client)
    await commits.routine([flow_of()], limit_s=1)
    assert failures


async def test_a_role_that_commits_nothing_commits_nothing() -> None:
    commits, _ = commits_of(None)
    assert not await commits.last([flow_of()], limit_s=1)
