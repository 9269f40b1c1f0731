"""The channel `email` against a real SMTP server: a test for each row of docs/reference/email.md."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from notifyd.channels.email import EmailChannel
from notifyd.channels.port import Delivery
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Retry, Skip
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from tests.fixtures.push import make_message
from tests.fixtures.smtp import Relay, hang, reset, running_relay
from tests.integration.webhook_peers import certificates

DOC = Path(__file__).resolve().parents[2] / "docs" / "reference" / "email.md"
ANN = Contact(email=("ann@example.org",))


def email_settings(url: str, **more: Any) -> Any:
    values = {"smtp_url": url, "email_from": "Shop <no-reply@shop.example>", "email_timeout_s": 5.0, **more}
    return load_settings({}, **values)


@asynccontextmanager
async def channel(url: str, **more: Any) -> AsyncIterator[EmailChannel]:
    ports = {name: more.pop(name) for name in ("ssl_context", "clock") if name in more}
    made = EmailChannel(email_settings(url, **more), Metrics(), **ports)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def plain(relay: Relay) -> str:
    return f"smtp+plain://127.0.0.1:{relay.port}"


def delivery(**content: Any) -> Delivery:
    return Delivery(make_message("ann", **content), "ann", "email", "", 1)


async def send(relay: Relay, contact: Contact = ANN, **more: Any) -> Any:
    async with channel(plain(relay), **more) as made:
        return await made.send(delivery(), contact)


async def test_a_mail_goes_to_each_address_by_itself_over_one_connection():
    async with running_relay() as relay:
        contact = Contact(email=("ann@example.org", "ann@example.com", "ann@example.org"))
        assert await send(relay, contact) == Done("email[0] SMTP 250; email[1] SMTP 250")
        assert [one.rcpt_tos for one in relay.envelopes] == [["ann@example.org"], ["ann@example.com"]]
        assert {one.mail_from for one in relay.envelopes} == {"no-reply@shop.example"}
        assert [mail["To"] for mail in relay.mails] == ["ann@example.org", "ann@example.com"]
        assert relay.mails[0]["From"] == "Shop <no-reply@shop.example>"
        assert relay.connections == 1


async def test_lines_that_begin_with_a_dot_arrive():
    async with running_relay() as relay, channel(plain(relay)) as made:
        await made.send(delivery(body=".\n..\n.end"), ANN)
        text = next(relay.mails[0].iter_parts())
        assert text.get_content().splitlines() == [".", "..", ".end"]


async def test_an_address_beyond_ascii():
    async with running_relay() as relay:
        assert await send(relay, Contact(email=("grüße@example.org",))) == Done("SMTP 250")
        assert relay.envelopes[0].rcpt_tos == ["grüße@example.org"]


ROWS = [
    ("RCPT", "550 5.1.1 ann@example.org unknown", Dead("gone", "SMTP 550 5.1.1 at RCPT", gone=(0,))),
    ("RCPT", "550 5.7.1 blocked", Dead("smtp_550", "SMTP 550 5.7.1 at RCPT")),
    ("RCPT", "554 no", Dead("smtp_554", "SMTP 554 at RCPT")),
    ("RCPT", "450 4.2.1 greylisted", Retry("smtp_450", detail="SMTP 450 4.2.1 at RCPT")),
    ("RCPT", "552 5.2.2 full", Retry("smtp_552", detail="SMTP 552 5.2.2 at RCPT")),
    ("RCPT", "421 4.3.2 going down", Retry("smtp_421", detail="SMTP 421 4.3.2 at RCPT")),
    ("MAIL", "550 5.7.1 sender refused", Dead("smtp_550", "SMTP 550 5.7.1 at MAIL")),
    ("MAIL", "451 4.3.0 later", Retry("smtp_451", detail="SMTP 451 4.3.0 at MAIL")),
    ("DATA", "554 5.7.1 spam", Dead("smtp_554", "SMTP 554 5.7.1 at DATA")),
    ("DATA", "452 4.3.1 no space", Retry("smtp_452", detail="SMTP 452 4.3.1 at DATA")),
    *[
        (step, reset, Retry("connection_lost", detail=f"the connection ended at {step}"))
        for step in ("MAIL", "RCPT", "DATA")
    ],
    *[
        (step, hang, Retry("timeout", detail=f"no reply to {step} within 0.3 s"))
        for step in ("MAIL", "RCPT", "DATA")
    ],
]


@pytest.mark.parametrize(
    ("step", "reply", "outcome"), ROWS, ids=lambda value: getattr(value, "__name__", None)
)
async def test_what_a_reply_means(step, reply, outcome):
    async with running_relay() as relay:
        relay.script[step] = [reply]
        assert await send(relay, email_timeout_s=0.3 if reply is hang else 5.0) == outcome
        # Whatever it was, the next mail goes out.
        assert await send(relay) == Done("SMTP 250")


async def test_a_relay_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with channel(f"smtp+plain://127.0.0.1:{taken.getsockname()[1]}") as made:
            assert await made.send(delivery(), ANN) == Retry("connect_failed", detail="Connection refused")


async def test_a_relay_of_a_name_that_nobody_knows():
    async with channel("smtp+plain://nowhere.invalid") as made:
        outcome = await made.send(delivery(), ANN)
        assert outcome.reason == "dns_failed"


async def test_a_relay_that_does_not_greet():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with channel(f"smtp+plain://127.0.0.1:{port}", email_timeout_s=0.3) as made:
            outcome = await made.send(delivery(), ANN)
            assert outcome == Retry("timeout", detail="no reply to greeting within 0.3 s")


async def test_a_relay_that_turns_us_away_at_the_door_costs_no_attempt():
    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 5.3.2 not today\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(full, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with channel(f"smtp+plain://127.0.0.1:{port}") as made:
            outcome = await made.send(delivery(), ANN)
            assert outcome == Retry("smtp_554", detail="SMTP 554 5.3.2 at greeting", counts=False)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_sign_in_over_tls(scheme, tmp_path):
    served, trusting = certificates(tmp_path, "localhost")
    contexts = {"starttls": served} if scheme == "smtp" else {"tls": served}
    async with running_relay(wants_auth=True, **contexts) as relay:
        for password, outcome in (
            ("open%20sesame", Done("SMTP 250")),
            ("wrong", Retry("smtp_sign_in", detail="SMTP 535 5.7.8 at greeting", counts=False)),
        ):
            url = f"{scheme}://shop%40example.org:{password}@localhost:{relay.port}"
            async with channel(url, ssl_context=trusting) as made:
                assert await made.send(delivery(), ANN) == outcome
        assert set(relay.users) == {"shop@example.org"}
        # And one that nobody vouches for.
        async with channel(f"{scheme}://localhost:{relay.port}") as made:
            outcome = await made.send(delivery(), ANN)
            assert (outcome.reason, outcome.counts) == ("tls_failed", False)
            assert "self-signed certificate" in outcome.detail


async def test_without_starttls_nothing_is_said():
    async with running_relay() as relay, channel(f"smtp://u:secret@127.0.0.1:{relay.port}") as made:
        outcome = await made.send(delivery(), ANN)
        assert (outcome.reason, outcome.counts) == ("smtp_unsupported", False)
        assert relay.users == relay.envelopes == []


async def test_a_kept_connection_that_the_relay_closed_is_no_failure():
    async with running_relay() as relay, channel(plain(relay)) as made:
        assert await made.send(delivery(), ANN) == Done("SMTP 250")
        relay.script["MAIL"] = [reset]
        assert await made.send(delivery(), ANN) == Done("SMTP 250")
        assert (relay.connections, len(relay.envelopes)) == (2, 2)


async def test_an_idle_connection_is_not_used_for_long():
    now = 0.0
    async with running_relay() as relay, channel(plain(relay), clock=lambda: now) as made:
        for _ in range(2):
            assert await made.send(delivery(), ANN) == Done("SMTP 250")
        assert relay.connections == 1
        now = 60.0
        assert await made.send(delivery(), ANN) == Done("SMTP 250")
        assert relay.connections == 2


async def test_a_refused_mail_keeps_its_connection():
    async with running_relay() as relay, channel(plain(relay)) as made:
        relay.script["RCPT"] = ["550 5.1.1 unknown"]
        assert (await made.send(delivery(), ANN)).reason == "gone"
        assert await made.send(delivery(), ANN) == Done("SMTP 250")
        assert relay.connections == 1


async def test_a_relay_that_hangs_holds_no_more_than_its_connections():
    async with running_relay() as relay:
        relay.script["RCPT"] = [hang] * 2
        async with channel(plain(relay), email_connections=2, email_timeout_s=3.0) as made:
            sends = [asyncio.create_task(made.send(delivery(), ANN)) for _ in range(8)]
            outcomes = await asyncio.gather(*sends)
            busy = [one for one in outcomes if isinstance(one, Retry) and one.reason == "host_busy"]
            assert len(busy) == 6
            assert not any(one.counts for one in busy)
            assert relay.connections == 2


async def test_a_mail_whose_answer_was_lost_comes_again_under_the_same_name():
    async with running_relay() as relay, channel(plain(relay)) as made:
        taken = []

        def take_and_reset(server):
            taken.append(server.envelope.content)
            return reset(server)

        relay.script["DATA"] = [take_and_reset]
        same = delivery()
        assert (await made.send(same, ANN)).reason == "connection_lost"
        assert await made.send(same, ANN) == Done("SMTP 250")
        assert taken == [relay.envelopes[0].content]


async def test_who_has_no_address_or_a_wrong_one():
    async with running_relay() as relay:
        assert await send(relay, Contact()) == Skip("no_address")
        wrong = Contact(email=("Ann <ann@example.org>",))
        assert await send(relay, wrong) == Dead("bad_address", "the address is not valid")
        both = Contact(email=("nobody", "ann@example.org"))
        assert (await send(relay, both)).reason == "bad_address"
        assert len(relay.envelopes) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"smtp_url": "http://user:hush@relay"}, "NOTIFYD_SMTP_URL"),
        ({"smtp_url": "smtp://user:hush@"}, "NOTIFYD_SMTP_URL"),
        ({"smtp_url": "smtp://user:hush@relay:port"}, "NOTIFYD_SMTP_URL"),
        ({"email_from": None}, "NOTIFYD_EMAIL_FROM"),
        ({"email_from": "nobody"}, "NOTIFYD_EMAIL_FROM"),
        ({"email_layout": "/nowhere/layout.html"}, "NOTIFYD_EMAIL_LAYOUT cannot be read: No such file"),
        ({"email_unsubscribe": "ftp://x"}, "NOTIFYD_EMAIL_UNSUBSCRIBE"),
    ],
)
def test_settings_that_cannot_work_are_named(more, words):
    with pytest.raises(ConfigError, match=words) as error:
        EmailChannel(
            email_settings(
                **{"url": "smtp://relay", **({"url": more.pop("smtp_url")} if "smtp_url" in more else {})},
                **more,
            ),
            Metrics(),
        )
    assert "hush" not in f"{error.value.message} {error.value.remedy}"


def test_the_docs_tell_of_each_reason():
    told = set(re.findall(r"`([a-z_0-9]+)`", DOC.read_text()))
    reasons = {outcome.reason for _, _, outcome in ROWS} - {"smtp_554", "smtp_452", "smtp_451", "smtp_552"}
    assert {
        *reasons,
        "connect_failed",
        "dns_failed",
        "tls_failed",
        "smtp_sign_in",
        "smtp_unsupported",
    } <= told
    assert {"bad_address", "no_address", "host_busy"} <= told
