"""`notifyd listen` and `notifyd token` as they are installed, against a real push server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from notifyd.delivery.signal import StateSignal, encode_signal
from notifyd.push.auth import TokenVerifier
from tests.fixtures.processes import NOTIFYD, clean_environment
from tests.fixtures.push import SECRET, make_message, push_settings, running_push_server
from tests.fixtures.waiting import eventually


async def run(tmp_path: Path, *args: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        NOTIFYD,
        *args,
        cwd=tmp_path,
        env=clean_environment(env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, list[str], str]:
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode().splitlines(), err.decode()


async def test_listen_prints_a_message_acks_it_and_ends(tmp_path):
    async with running_push_server() as server:
        env = {"NOTIFYD_JWT_SECRET": SECRET, "NOTIFYD_HTTP_PORT": str(server.port)}
        process = await run(tmp_path, "listen", "--user", "alice", "--count", "1", **env)
        await eventually(lambda: server.hub.connections == 1)
        message = make_message(title="On \x1b[31mits way", body="Today")
        server.publish(message)
        code, lines, err = await ended(process)
        assert (code, len(lines)) == (0, 1), err
        assert message.id in lines[0]
        assert "Today" in lines[0]
        assert "\x1b" not in lines[0]
        assert "open" in err
        assert [(event.id, event.stage) for event in server.events.written] == [(message.id, "acked")]


async def test_listen_as_json_prints_every_frame_and_no_ack_acks_nothing(tmp_path):
    async with running_push_server() as server:
        args = ("--url", server.url, "--token", server.token("bob"), "--json", "--count", "2", "--no-ack")
        process = await run(tmp_path, "listen", *args)
        await eventually(lambda: server.hub.connections == 1)
        for _ in range(2):
            server.publish(make_message("bob"))
        code, lines, err = await ended(process)
        assert code == 0, err
        assert [json.loads(line)["op"] for line in lines] == ["welcome", "msg", "msg"]
        assert server.events.written == []


async def test_listen_that_is_refused_says_why_in_one_line_and_fails(tmp_path):
    async with running_push_server() as server:
        process = await run(tmp_path, "listen", "--url", server.url, "--token", "nonsense")
        code, lines, err = await ended(process)
        assert code == 1
        assert lines == []
        assert "4401" in err.splitlines()[-1]
        assert "Traceback" not in err


async def test_too_few_messages_in_time_fail(tmp_path):
    async with running_push_server() as server:
        args = ("--url", server.url, "--token", server.token(), "--count", "1", "--timeout", "1")
        code, _, err = await ended(await run(tmp_path, "listen", *args))
        assert code == 1
        assert "fewer than 1" in err


async def test_a_token_is_alone_on_standard_output(tmp_path):
    args = ("token", "alice", "--scope", "notify:send", "--scope", "notify:ops", "--ttl", "60")
    code, lines, err = await ended(await run(tmp_path, *args, NOTIFYD_JWT_SECRET=SECRET))
    assert (code, len(lines)) == (0, 1), err
    identity = TokenVerifier(push_settings()).verify(lines[0])
    assert (identity.user, identity.scopes) == ("alice", {"notify:send", "notify:ops"})


async def test_without_a_secret_token_and_listen_say_what_to_do(tmp_path):
    for args in (("token", "alice"), ("listen", "--user", "alice")):
        code, lines, err = await ended(await run(tmp_path, *args))
        assert (code, lines) == (2, [])
        assert "NOTIFYD_JWT_SECRET" in err
        assert "Traceback" not in err
    code, _, err = await ended(await run(tmp_path, "listen"))
    assert code == 2
    assert "--user" in err


async def test_listen_tells_what_another_device_read_beside_the_messages(tmp_path):
    async with running_push_server() as server:
        args = ("--url", server.url, "--token", server.token("alice"), "--count", "1")
        process = await run(tmp_path, "listen", *args)
        await eventually(lambda: server.hub.connections == 1)
        signal = StateSignal(ids=["id-1", "id-\x1b[31m2"], set="read", by="another device")
        server.hub.take_signal(b"alice", encode_signal(signal))
        server.publish(make_message())
        code, lines, err = await ended(process)
        assert (code, len(lines)) == (0, 1), err
        assert "read on another device: id-1, id- [31m2" in err
        assert "\x1b" not in err
