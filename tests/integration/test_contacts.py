"""Contacts on a real broker: `deliver` knows them before it begins, follows them, survives what breaks."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import Any

from notifyd.message.ids import new_id
from notifyd.roles.deliver import DeliverRole
from notifyd.settings import Settings
from notifyd.stream.contacts import Contacts
from notifyd.stream.producer import OutRecord
from tests.fixtures.roles import Surroundings, surroundings
from tests.fixtures.service import Service
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import WebhookReceiver


async def put(around: Surroundings, user: str, contact: Any) -> None:
    value = (
        None if contact is None else contact if isinstance(contact, bytes) else json.dumps(contact).encode()
    )
    await around.context.producer.send(OutRecord(around.topics.contacts, value, key=user.encode()))


@asynccontextmanager
async def following(around: Surroundings):
    context = around.context
    contacts = Contacts(context.settings, context.metrics, context.incarnation, context.fail)
    await contacts.start()
    await contacts.wait()
    try:
        yield contacts
    finally:
        await contacts.stop()


def value_of(contacts: Contacts, user: str) -> bytes | None:
    known = contacts.get(user)
    return None if known is None else known.value


async def send(around: Surroundings, to: list[str], **more: Any) -> None:
    await around.send(id=new_id(), to=to, title="Hi", channels=["webhook"], **more)


async def outcomes(around: Surroundings, count: int) -> list[tuple[str, str, str | None]]:
    async def enough() -> list[tuple[str, str, str | None]]:
        found = [(one.user, one.stage, one.reason) for one in await around.events()]
        return found if len(found) >= count else []

    return await eventually(enough, what=f"{count} events", every_s=0.3)


async def test_what_was_there_before_is_known_at_the_first_message(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    async with surroundings(settings) as around:
        await put(around, "alice", {"webhook": [{"url": webhook_receiver.url("/a")}]})
        await put(around, "bob", {"webhook": [{"url": webhook_receiver.url("/b")}]})
        await put(around, "bob", None)
        await send(around, ["alice", "bob"])
        async with around.running(DeliverRole):
            found = await outcomes(around, 2)
    assert sorted(found) == [("alice", "sent", None), ("bob", "skipped", "no_address")]


async def test_a_change_takes_effect_while_it_runs(settings: Settings) -> None:
    async with surroundings(settings) as around, following(around) as one, following(around) as two:
        assert one.get("alice") is two.get("alice") is None
        for contact in (b'{"email": ["a@example.org"]}', b'{"email": ["b@example.org"]}', None):
            await put(around, "alice", contact)
            for each in (one, two):
                await eventually(lambda each=each, contact=contact: value_of(each, "alice") == contact)


async def test_a_restart_reads_only_what_is_new(settings: Settings) -> None:
    async with surroundings(settings) as around:
        for number in range(20):
            await put(around, f"user-{number}", {"email": [f"{number}@example.org"]})
        records = around.context.metrics.registry.get_sample_value
        async with following(around) as contacts:
            assert value_of(contacts, "user-7") == b'{"email": ["7@example.org"]}'
        assert records("notifyd_contact_records_total") == 20
        await put(around, "user-7", None)
        async with following(around) as contacts:
            assert contacts.get("user-7") is None
            assert contacts.get("user-8") is not None
        assert records("notifyd_contact_records_total") == 21


async def test_the_message_brings_an_address_and_the_topic_what_is_muted(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    async with surroundings(settings) as around:
        kept = {"webhook": [{"url": webhook_receiver.url("/kept")}], "mute": [{"type": "ads"}]}
        await put(around, "alice", kept)
        told = {"alice": {"webhook": [{"url": webhook_receiver.url("/told")}]}}
        async with around.running(DeliverRole):
            await send(around, ["alice"], contacts=told)
            await send(around, ["alice"], contacts=told, type="ads")
            await send(around, ["alice"], contacts=told, type="ads", critical=True)
            found = await outcomes(around, 3)
    assert sorted(found, key=str) == [
        ("alice", "sent", None),
        ("alice", "sent", None),
        ("alice", "skipped", "muted"),
    ]
    assert len(webhook_receiver.calls_to("/told")) == 2
    assert not webhook_receiver.calls_to("/kept")


async def test_an_address_that_is_gone_is_left_out_until_the_contact_is_written_anew(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    contact = {"webhook": [{"url": webhook_receiver.url(path)} for path in ("/old", "/new")]}
    webhook_receiver.script("/old", 410)

    async with surroundings(settings) as around:
        await put(around, "alice", contact)
        async with around.running(DeliverRole) as role:

            async def until_gone(count: int) -> None:
                contacts = role._contacts
                await eventually(lambda: len(contacts.get("alice").gone) == count, what=f"{count} to be gone")

            await send(around, ["alice"])
            await until_gone(1)
            await send(around, ["alice"])
            await outcomes(around, 2)
            assert len(webhook_receiver.calls_to("/old")) == 1
            assert len(webhook_receiver.calls_to("/new")) == 2
            # The backend's word counts.
            webhook_receiver.script("/old", 200)
            await put(around, "alice", contact)
            await until_gone(0)
            await send(around, ["alice"])
            assert await outcomes(around, 3) == [("alice", "sent", None)] * 3
        assert len(webhook_receiver.calls_to("/old")) == 2
        value = around.context.metrics.registry.get_sample_value
        assert value("notifyd_contact_addresses_gone_total", {"channel": "webhook"}) == 1


async def test_a_contact_that_cannot_be_read_is_dead_for_its_user_alone(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    async with surroundings(settings) as around:
        await put(around, "alice", b"no json")
        await put(around, "bob", {"webhook": [{"url": webhook_receiver.url("/b")}]})
        async with around.running(DeliverRole):
            await send(around, ["alice", "bob"])
            found = await outcomes(around, 2)
    assert sorted(found) == [("alice", "dead", "bad_contact"), ("bob", "sent", None)]


async def test_a_file_that_breaks_ends_the_process_and_loses_nothing(
    settings: Settings, webhook_receiver: WebhookReceiver
) -> None:
    async with surroundings(settings) as around:
        await put(around, "alice", {"webhook": [{"url": webhook_receiver.url("/a")}]})
        async with around.running(DeliverRole) as role:
            role._contacts._book._db.close()
            await send(around, ["alice"])
            assert await outcomes(around, 1) == [("alice", "retry_wait", "contacts_unavailable")]
            assert [error.reason for error in around.failures] == ["contacts_dir"]
        around.failures.clear()
        async with around.running(DeliverRole):
            assert (await outcomes(around, 2))[1] == ("alice", "sent", None)


def test_contacts_are_set_shown_and_removed(service: Service) -> None:
    done = service.run(
        "contacts", "set", "alice", "--email", "a@example.org", "--webhook", "https://x.example"
    )
    assert (done.returncode, done.stdout) == (0, "the contact of alice is set\n")
    whole = {"webhook": [{"url": "https://x.example", "secret": "whsec_aGk="}], "mute": [{"type": "ads"}]}
    done = service.run("contacts", "set", "bob", "--from", "-", "--json", stdin=json.dumps(whole))
    assert json.loads(done.stdout) == {"user": "bob", "ok": True}
    shown = json.loads(service.run("contacts", "show", "alice").stdout)
    assert shown == {"email": ["a@example.org"], "webhook": [{"url": "https://x.example"}]}
    hidden = json.loads(service.run("contacts", "show", "bob").stdout)
    assert hidden["webhook"] == [{"url": "https://x.example", "secret": "(not shown)"}]
    assert json.loads(service.run("contacts", "show", "bob", "--secrets").stdout) == whole
    assert service.run("contacts", "rm", "alice").stdout == "the contact of alice is removed\n"
    gone = service.run("contacts", "show", "alice")
    assert gone.returncode == 1
    assert "there is no contact of alice" in gone.stderr


def test_a_contact_that_would_not_do_is_refused_with_its_field(service: Service) -> None:
    for stdin, words in (
        ('{"email": "a@example.org"}', "alice.email"),
        ('{"webhook": [{}]}', "alice.webhook[0].url"),
        ('{"mute": [{"from": "22:00"}]}', "alice.mute[0]"),
        ("nonsense", "not valid JSON"),
    ):
        refused = service.run("contacts", "set", "alice", "--from", "-", stdin=stdin)
        assert refused.returncode != 0
        assert words in refused.stderr
    assert service.run("contacts", "set", "alice").returncode == 2
