"""`POST /v1/messages` while Apache Kafka is frozen, killed or refuses: no false promise, no silence."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.child import free_port
from notifyd.dev.kafka import LocalKafka
from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.settings import Settings
from notifyd.stream.topics import create_topics
from tests.fixtures.api import running_api
from tests.fixtures.kafka import settings_for
from tests.fixtures.waiting import eventually


@pytest.fixture
def settings(own_kafka: LocalKafka, topic_prefix: str) -> Settings:
    return settings_for(
        own_kafka.bootstrap_servers,
        is_embedded=False,
        topic_prefix=topic_prefix,
        api_confirm_timeout_s=1.0,
    )


async def test_what_a_frozen_broker_leaves_open_names_the_uuid_that_makes_a_repetition_harmless(
    own_kafka: LocalKafka, settings: Settings
) -> None:
    body = {"toUserIds": ["alice"], "content": {"title": "Hi"}}
    async with running_api(settings) as api:
        assert (await api.post(body)).status == 202
        own_kafka.pause()
        try:
            answer = await api.post(body)
            batch = await api.post([body, body])
        finally:
            own_kafka.resume()
        assert (answer.status, answer.body["code"]) == (503, "producer_timeout")
        assert int(answer.headers["Retry-After"]) > 0
        (told,) = answer.body["messages"]
        assert told["error"]["code"] == "producer_timeout"
        assert "position" not in told
        assert told["id"] in answer.body["detail"]
        assert "may still arrive" in answer.body["detail"]
        assert [sorted(one) for one in batch.body["messages"]] == [["error", "id"]] * 2

        await eventually(lambda: not api.role.waits_for, what="the role to be ready again")
        again = await api.post(body, Idempotency_Key=told["id"])
        assert (again.status, again.body["id"]) == (202, told["id"])
        for one in batch.body["messages"]:
            assert (await api.post(body, Idempotency_Key=one["id"])).status == 202
        values: dict[str, set[bytes]] = {}
        for record in await api.written():
            values.setdefault(record.key.decode(), set()).add(record.value)
        assert len(values) == 4
        assert all(len(found) == 1 for found in values.values()), "one UUID, one content"


async def test_a_broker_killed_in_the_middle_of_requests_costs_none_that_was_confirmed(
    own_kafka: LocalKafka, settings: Settings
) -> None:
    async with running_api(settings) as api:
        sent: dict[str, bytes] = {}
        confirmed: set[str] = set()
        open_: set[str] = set()

        async def post(key: str) -> int:
            answer = await api.post(sent[key])
            if answer.status == 202:
                confirmed.add(key)
                open_.discard(key)
            else:
                assert answer.status == 503, answer
                assert key in json.dumps(answer.body)
                open_.add(key)
            return answer.status

        async def flow() -> None:
            while not open_:
                key = new_id()
                sent[key] = build_envelope(to="alice", sender="x", created_by="x", title="Hi", id=key)
                await post(key)

        flows = [asyncio.create_task(flow()) for _ in range(20)]
        await eventually(lambda: len(confirmed) > 100)
        await asyncio.to_thread(own_kafka.kill)
        await asyncio.wait_for(asyncio.gather(*flows), 30)
        assert open_
        await eventually(lambda: api.role.waits_for == ["Kafka"], what="the role to be out of service")
        await asyncio.to_thread(own_kafka.start)
        await eventually(lambda: not api.role.waits_for, timeout_s=60, what="the role to be ready again")
        for key in sorted(open_):
            await eventually(lambda key=key: _is_taken(post, key), timeout_s=60)  # type: ignore[misc]
        found: dict[str, set[bytes]] = {}
        for record in await api.written():
            found.setdefault(record.key.decode(), set()).add(record.value)
        assert confirmed == set(sent)
        assert found == {key: {value} for key, value in sent.items()}


async def _is_taken(post, key: str) -> bool:  # type: ignore[no-untyped-def]
    return (await post(key)) == 202


async def test_brokers_that_moved_are_found_again(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    before, after = (EmbeddedBroker(tmp_path / str(port), port=port) for port in ports)
    servers = ",".join(f"127.0.0.1:{port}" for port in ports)
    settings = settings_for(servers, is_embedded=True, topic_prefix="moved.", api_confirm_timeout_s=1.0)
    body = {"toUserIds": ["alice"], "content": {}}
    try:
        await asyncio.to_thread(before.start)
        async with running_api(settings) as api:
            assert (await api.post(body)).status == 202
            await asyncio.to_thread(before.kill)
            assert (await api.post(body)).status == 503
            await eventually(lambda: api.role.waits_for == ["Kafka"], what="the role to be out of service")
            await asyncio.to_thread(after.start)
            await create_topics(settings)
            await eventually(lambda: not api.role.waits_for, timeout_s=60, what="the role to be ready again")
            assert (await api.post(body)).status == 202
    finally:
        await asyncio.to_thread(before.stop)
        await asyncio.to_thread(after.stop)


async def test_of_a_batch_that_is_written_in_part_each_message_is_told(settings: Settings) -> None:
    # The topic takes less than this pod does, as in the middle of a change of settings.
    await create_topics(settings)
    larger = {"message_max_bytes": 3_000_000, "api_max_body_bytes": 3_000_000}
    async with running_api(settings.model_copy(update=larger)) as api:
        values = [
            build_envelope(to="alice", sender="x", created_by="x", body="x" * size)
            for size in (10, 1_500_000, 10, 10)
        ]
        answer = await api.post(b"[" + b",".join(values) + b"]")
        ids = [json.loads(value)["UUID"] for value in values]
        told = answer.body["messages"]
        assert [one["id"] for one in told] == ids
        assert (answer.status, answer.body["code"]) == (413, "record_too_large")
        assert told[1]["error"]["code"] == "record_too_large"
        found = {f"{r.partition}:{r.offset}": r.value for r in await api.written()}
        assert {one["position"]: values[ids.index(one["id"])] for one in told if "position" in one} == found
