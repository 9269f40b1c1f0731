"""Runs the streams, many at once, beside an honest client; judges the server by what it is afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.fixtures.push_process import PushProcess
from tests.fixtures.waiting import eventually
from tests.fuzz_push.streams import chunk, make_session, mutate

#: The server has ended each connection by then, whatever it was sent.
_ENDS_S = 60.0
#: What a process may grow by for good while it serves (allocator, caches that fill).
_KEPT = ("Connection", "FrameReader")
_GROWTH_BYTES = 16 * 1024 * 1024


@dataclass
class Result:
    """What a run saw; `faults` is empty when all is well."""

    streams: int = 0
    seconds: float = 0.0
    ended: dict[str, int] = field(default_factory=dict)
    honest: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def run(
    streams: int,
    seed: int,
    log: Path,
    *,
    at_once: int = 100,
    report: Callable[[str], None] = lambda line: None,
) -> Result:
    """Send `streams` mutated streams over sockets of their own to a server in another process."""
    result, started = Result(), time.monotonic()
    # What waits for its time (hello, close, heartbeat) is let go then: short times, to see it go.
    settings = {"ws_hello_timeout_s": 2.0, "ws_heartbeat_s": 3.0, "ws_max_connections_per_user": 1000}
    with PushProcess(log, **settings) as server:
        serving = asyncio.create_task(_be_honest(server, result))
        tokens = [server.token(f"fuzz-{n}") for n in range(100)]
        numbers = iter(range(streams))
        step = max(1, streams // 10)

        async def work() -> None:
            for number in numbers:
                how = await _send(server.port, Random(f"{seed}/{number}"), tokens)
                result.ended[how] = result.ended.get(how, 0) + 1
                result.streams += 1
                if result.streams % step == 0:
                    sample = await asyncio.to_thread(server.stats)
                    result.samples.append(sample)
                    report(f"{result.streams} streams, {_brief(sample)}")

        await asyncio.gather(*(work() for _ in range(at_once)))
        with suppress(AssertionError):
            await eventually(lambda: _is_alone(server.stats()), every_s=0.5)
        last = await asyncio.to_thread(server.stats)
        result.samples.append(last)
        served = result.honest
        with suppress(AssertionError):
            await eventually(lambda: serving.done() or result.honest > served)
        if result.honest == served:
            result.faults.append("the honest client is not served any more")
        if serving.done():
            result.faults.append(f"the honest client: {serving.exception()!r}")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        if not server.is_running():
            result.faults.append("the server ended")
        _judge(result, last)
    result.faults += server.faults()
    result.seconds = time.monotonic() - started
    return result


async def _send(port: int, rng: Random, tokens: list[str]) -> str:
    """Send one stream; return how it ended."""
    head, frames = make_session(rng, rng.choice(tokens))
    data = mutate(rng, frames)
    if rng.random() < 0.1:
        head = mutate(rng, [head])
    pieces = chunk(rng, head + data)
    drip_s = rng.uniform(0.01, 0.1) if rng.random() < 0.02 else 0.0
    # Each from an address of its own: one alone would run out of ports.
    local = f"127.{rng.randint(1, 250)}.{rng.randint(0, 250)}.{rng.randint(1, 250)}"
    ending = rng.choice(("abort", "eof", "wait"))
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
        try:
            for piece in pieces:
                if writer.transport.is_closing():
                    return "reset"
                writer.write(piece)
                await asyncio.sleep(drip_s)
            if ending == "abort":
                return "aborted"
            async with asyncio.timeout(_ENDS_S):
                if ending == "wait":
                    # For what it has to say; it need not end a session in which all is well.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(65536), 0.5)
                if not writer.transport.is_closing():
                    writer.write_eof()
                while await reader.read(65536):
                    pass
            return "ended"
        except TimeoutError:
            return "left"
        finally:
            writer.transport.abort()
            writer.close()
    return "reset"


async def _be_honest(server: PushProcess, result: Result) -> None:
    """Get each of many messages within a bound, and have it confirmed."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://127.0.0.1:{server.port}/v1/push") as ws,
    ):
        await ws.send_json({"op": "hello", "token": server.token("honest")})
        assert (await _next(ws))["op"] == "welcome"
        while True:
            if await asyncio.to_thread(server.publish, "honest", f"message {result.honest}") != 1:
                raise AssertionError("the server lost the honest client")
            message = await _next(ws)
            assert message["op"] == "msg", message
            await ws.send_json({"op": "ack", "ids": [message["message"]["UUID"]]})
            assert await _next(ws) == {"op": "ok", "ack": [message["message"]["UUID"]]}
            result.honest += 1
            await asyncio.sleep(0.05)


async def _next(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """Return the next frame that is no heartbeat."""
    while True:
        parsed = json.loads((await ws.receive(timeout=20)).data)
        frames = [
            frame for frame in (parsed if isinstance(parsed, list) else [parsed]) if frame["op"] != "pos"
        ]
        if frames:
            (frame,) = frames
            return frame


def _is_alone(sample: dict[str, Any]) -> bool:
    """Whether the honest client is all that is left."""
    return sample["sockets"] == 1 and all(sample["objects"][name] <= 1 for name in _KEPT)


def _judge(result: Result, last: dict[str, Any]) -> None:
    if result.ended.get("left"):
        result.faults.append(f"{result.ended['left']} streams were not ended")
    if last["sockets"] != 1:
        result.faults.append(f"{last['sockets'] - 1} connections are left behind")
    # One for the honest client.
    for name in _KEPT:
        if last["objects"][name] > 1:
            result.faults.append(f"{last['objects'][name] - 1} objects of {name} are left behind")
    begun = result.samples[min(1, len(result.samples) - 1)]
    grown = last["resident_bytes"] - begun["resident_bytes"]
    if grown > _GROWTH_BYTES:
        result.faults.append(f"{grown / 1e6:.1f} MB more memory than in the beginning")
    if last["descriptors"] > result.samples[0]["descriptors"]:
        result.faults.append(f"{last['descriptors']} descriptors at the end")


def _brief(sample: dict[str, Any]) -> str:
    return (
        f"{sample['resident_bytes'] / 1e6:.1f} MB, {sample['descriptors']} descriptors, "
        f"{sample['sockets']} sockets, {sample['cpu_s']:.1f} s of CPU"
    )
