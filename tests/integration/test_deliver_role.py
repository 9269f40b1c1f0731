"""The deliver role on a real broker: outcomes, retries at their rungs, the end of what cannot work."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket

from notifyd.message.ids import new_id
from notifyd.roles.deliver import DeliverRole
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord
from notifyd.stream.retry import read_order
from tests.fixtures.roles import Surroundings, surroundings
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import WebhookReceiver


def later(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def headers_of(record: object) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}  # type: ignore[attr-defined]


async def stages(around: Surroundings, count: int) -> list[str]:
    async def enough() -> list[str]:
        found = [event.stage for event in await around.events()]
        return found if len(found) >= count else []

    return await eventually(enough, what=f"{count} events", every_s=0.3)


async def test_a_webhook_is_called_and_its_event_written(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    async with surroundings(settings) as around, around.running(DeliverRole):
        message_id = new_id()
        await around.send(
            id=message_id,
            to=["alice", "bob"],
            title="Hi",
            channels=["webhook"],
            contacts={"alice": {"webhook": [{"url": webhook_receiver.url("/a")}]}},
        )
        assert sorted(await stages(around, 2)) == ["sent", "skipped"]
        events = {event.user: event for event in await around.events()}
    assert len(webhook_receiver.calls_to("/a")) == 1
    assert events["alice"].id == message_id
    assert events["alice"].attempt == 1
    assert (events["bob"].stage, events["bob"].reason) == ("skipped", "no_address")


async def test_webhooks_that_hang_take_no_places_from_others(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    few = settings.model_copy(
        update={"deliver_concurrency": 2, "deliver_aside": 10, "webhook_timeout_s": 60, "drain_s": 0.1}
    )
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never says a word
    urls = {"hangs": f"http://127.0.0.1:{silent.getsockname()[1]}/", "is-well": webhook_receiver.url("/a")}
    async with surroundings(few) as around, around.running(DeliverRole):
        for user in ["hangs"] * 4 + ["is-well"] * 20:
            contacts = {user: {"webhook": [{"url": urls[user]}]}}
            await around.send(id=new_id(), to=[user], title="Hi", channels=["webhook"], contacts=contacts)
        assert set(await stages(around, 20)) == {"sent"}
    silent.close()
    assert len(webhook_receiver.calls_to("/a")) == 20


async def test_a_message_to_many_waits_in_line_by_itself_not_with_each_of_its_deliveries(
    settings: Settings,
) -> None:
    few = settings.model_copy(
        update={"deliver_concurrency": 20, "deliver_aside": 10, "stub_script": "slow:0.01"}
    )
    most = 0

    async def all_sent(around: Surroundings) -> bool:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        value = around.context.metrics.registry.get_sample_value
        labels = {"channel": "stub", "outcome": "done", "reason": ""}
        return value("notifyd_deliveries_total", labels) == 2000

    async with surroundings(few) as around, around.running(DeliverRole):
        for number in range(10):
            to = [f"{number}-{user}" for user in range(200)]
            await around.send(id=new_id(), to=to, title="Hi", channels=["stub"])
        await eventually(lambda: all_sent(around), what="all deliveries")
        assert set(await stages(around, 2000)) == {"sent"}
    assert most < 200


async def test_what_a_producer_repeats_is_delivered_once(settings: Settings) -> None:
    async with surroundings(settings) as around, around.running(DeliverRole):
        repeated, other = new_id(), new_id()
        for message_id in (repeated, repeated, other):
            await around.send(
                id=message_id, to=["alice"], title="Hi", channels=["stub"], created_at="2026-11-24T00:00:00Z"
            )
        await stages(around, 2)
        value = around.context.metrics.registry.get_sample_value
        labels = {"channel": "stub", "outcome": "skip", "reason": "double"}
        await eventually(lambda: value("notifyd_deliveries_total", labels) == 1, what="a double to be told")
        assert sorted(event.id for event in await around.events()) == sorted([repeated, other])


async def test_a_retry_waits_for_its_rung_over_a_restart(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "retry,done"})
    async with surroundings(script) as around:
        async with around.running(DeliverRole):
            await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
            assert await stages(around, 1) == ["retry_wait"]
        async with around.running(DeliverRole):
            assert await stages(around, 2) == ["retry_wait", "sent"]
        first, second = await around.events()
        (retry,) = await around.records(around.topics.retry["5s"])
    assert second.attempt == 2
    assert first.due is not None
    assert second.at >= first.due - 250
    assert read_order(retry).users == ("alice",)


async def test_dead_after_exactly_the_set_attempts(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "retry:5", "retry_max_attempts": 2})
    async with surroundings(script) as around, around.running(DeliverRole):
        message_id = new_id()
        await around.send(id=message_id, to=["alice", "bob"], title="Hi", channels=["stub"])
        assert sorted(await stages(around, 4)) == ["dead", "dead", "retry_wait", "retry_wait"]
        letters = await around.records(around.topics.dlq)
        (original,) = await around.records(around.topics.messages)
    assert len(letters) == 2
    for letter in letters:
        assert letter.value == original.value
        headers = headers_of(letter)
        assert headers["notifyd-reason"] == "attempts_exhausted"
        assert headers["notifyd-attempts"] == "2"
        assert headers["notifyd-channel"] == "stub"
        assert int(headers["notifyd-first-at"]) == original.timestamp
    assert {headers_of(letter)["notifyd-user"] for letter in letters} == {"alice", "bob"}


async def test_recipients_that_fail_alike_share_a_retry_record(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "retry,done"})
    async with surroundings(script) as around, around.running(DeliverRole):
        await around.send(id=new_id(), to=[f"user{n}" for n in range(50)], title="Hi", channels=["stub"])
        await stages(around, 100)
        retries = await around.records(around.topics.retry["5s"])
    assert len(retries) == 1
    assert len(read_order(retries[0]).users) == 50


async def test_a_retry_that_does_not_count_comes_back_again_and_again(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "busy"})
    async with surroundings(script) as around, around.running(DeliverRole):
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        assert await stages(around, 3) == ["retry_wait"] * 3
        assert {event.attempt for event in await around.events()} == {1}


async def test_a_second_copy_of_a_settled_retry_is_passed_over(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "retry,done"})
    async with surroundings(script) as around, around.running(DeliverRole):
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        await stages(around, 1)
        (retry,) = await around.records(around.topics.retry["5s"])
        copy = OutRecord(retry.topic, retry.value, key=retry.key, headers=tuple(retry.headers))
        await around.context.producer.send(copy)
        await around.send(id=new_id(), to=["bob"], title="Hi", channels=["stub"])
        assert sorted(await stages(around, 4)) == ["retry_wait", "retry_wait", "sent", "sent"]


async def test_a_chain_of_retries_that_was_forked_is_one_again(settings: Settings) -> None:
    # As after a kill between the retry's write and the ack of its cause: a second retry of the
    # same attempt, written later and so due later.
    script = settings.model_copy(update={"stub_script": "retry,done"})
    async with surroundings(script) as around, around.running(DeliverRole) as role:
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        await stages(around, 1)
        (retry,) = await around.records(around.topics.retry["5s"])
        headers = dict(retry.headers)
        headers["notifyd-due"] = str(int(headers["notifyd-due"]) + 40).encode()
        twin = OutRecord(retry.topic, retry.value, key=retry.key, headers=tuple(headers.items()))
        await around.context.producer.send(twin)
        await stages(around, 2)
        app = role.app  # type: ignore[attr-defined]
        await eventually(lambda: all(flow.in_flight == 0 for flow in app.engine_consumer.flows.values()))
        assert [event.attempt for event in await around.events()] == [1, 2]


async def test_an_unknown_channel_is_dead_and_says_which_there_are(settings: Settings) -> None:
    async with surroundings(settings) as around, around.running(DeliverRole):
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["pigeon"])
        assert await stages(around, 1) == ["dead"]
        (letter,) = await around.records(around.topics.dlq)
    assert headers_of(letter)["notifyd-reason"] == "unknown_channel"
    assert "webhook" in headers_of(letter)["notifyd-error"]


async def test_a_sender_whose_deliveries_die_is_paused_and_another_one_is_not(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "dead", "pause_min_dead": 5, "pause_s": 600.0})
    async with surroundings(script) as around, around.running(DeliverRole):
        for _ in range(5):
            await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"], sender="bad")
        assert await stages(around, 5) == ["dead"] * 5
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"], sender="bad")
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"], sender="other")
        assert sorted(await stages(around, 7)) == ["dead"] * 6 + ["retry_wait"]
        (waiting,) = [event for event in await around.events() if event.stage == "retry_wait"]
        assert (waiting.reason, waiting.attempt) == ("sender_paused", 1)
        assert not around.failures


async def test_a_bug_in_a_channel_is_retried_and_stops_nobody_else(settings: Settings) -> None:
    script = settings.model_copy(update={"stub_script": "raise,done"})
    async with surroundings(script) as around, around.running(DeliverRole):
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        assert await stages(around, 2) == ["retry_wait", "sent"]


async def test_what_is_not_for_deliver_is_passed_over(settings: Settings) -> None:
    async with surroundings(settings) as around, around.running(DeliverRole) as role:
        await around.send(raw=b"not json")
        await around.send(raw=json.dumps({"from": "x"}).encode())
        await around.send(id=new_id(), to=["alice"], title="only ws")
        await around.send(id=new_id(), to=["alice"], title="later", channels=["stub"], not_before=later(3600))
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        assert await stages(around, 1) == ["sent"]
        app = role.app  # type: ignore[attr-defined]
        await eventually(lambda: all(flow.in_flight == 0 for flow in app.engine_consumer.flows.values()))
        assert not await around.records(around.topics.dlq)


async def test_an_expired_message_is_not_sent(settings: Settings) -> None:
    async with surroundings(settings) as around:
        await around.send(
            id=new_id(),
            to=["alice"],
            title="late",
            channels=["stub"],
            expires_at=later(-1),
        )
        async with around.running(DeliverRole):
            assert await stages(around, 1) == ["expired"]


async def test_a_retry_record_with_broken_headers_is_dead_lettered(settings: Settings) -> None:
    async with surroundings(settings) as around, around.running(DeliverRole):
        await around.context.producer.send(OutRecord(around.topics.retry["5s"], b"{}", key=b"k"))

        async def letters() -> list[object]:
            return await around.records(around.topics.dlq)

        (letter,) = await eventually(letters, every_s=0.5)
    assert headers_of(letter)["notifyd-reason"] == "bad_retry_headers"


async def test_a_channel_over_its_rate_comes_back_and_costs_no_attempt(settings: Settings) -> None:
    limited = settings.model_copy(update={"deliver_rates": ("stub=1",)})
    async with surroundings(limited) as around, around.running(DeliverRole):
        users = [f"user-{number}" for number in range(8)]
        await around.send(id=new_id(), to=users, title="Hi", channels=["stub"])

        async def all_sent() -> bool:
            return sum(event.stage == "sent" for event in await around.events()) == len(users)

        await eventually(all_sent, what="all to be sent", timeout_s=90, every_s=0.5)
        events = await around.events()
    waits = [event for event in events if event.stage == "retry_wait"]
    assert {event.reason for event in waits} == {"rate_limited"}
    assert {event.attempt for event in events if event.stage == "sent"} == {1}
