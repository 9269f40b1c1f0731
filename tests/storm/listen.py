"""The devices of a storm as a process: each listens for one user, and acks what it gets.

Journal: `msg AT_MS USER ID` for each message, `ok AT_MS USER ID` for each ack that the server
confirmed, `state AT_MS USER STATE` for each change of a connection, `end UNCONFIRMED` last.
"""

from __future__ import annotations

import asyncio
import random

import msgspec

from notifyd.client import PushClient
from notifyd.push.auth import issue_token
from notifyd.settings import Settings, load_settings
from tests.storm.messages import listener
from tests.storm.records import Journal, now_ms, run_party

_TOKEN_TTL_S = 24 * 3600.0
_CONFIRM_S = 15.0


class ListenerConfig(msgspec.Struct, frozen=True):
    """`count` devices, spread over `urls`; one that lost its server tries the next."""

    seed: int
    count: int
    urls: tuple[str, ...]


class Device:
    """One device."""

    def __init__(self, user: str, config: ListenerConfig, settings: Settings, journal: Journal) -> None:
        self._user = user
        self._journal = journal
        self._chance = random.Random(f"{config.seed} {user}")
        self._client = PushClient(
            self._chance.sample(config.urls, len(config.urls)),
            issue_token(settings, user, ttl_s=_TOKEN_TTL_S),
            on_connection=self._on_connection,
            random_=self._chance,
        )

    def _on_connection(self, state: str, _: str) -> None:
        self._journal.write("state", now_ms(), self._user, state)

    async def _read(self) -> None:
        async for frame in self._client:
            if frame["op"] == "msg":
                self._journal.write("msg", now_ms(), self._user, frame["message"]["UUID"])
            elif frame["op"] == "ok":
                for message_id in frame.get("ack", ()):
                    self._journal.write("ok", now_ms(), self._user, message_id)

    async def run(self, stop: asyncio.Event) -> int:
        """Listen until `stop`; return how many acks were not confirmed in the end."""
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if reading.done():
            self._journal.write("state", now_ms(), self._user, "died")
            reading.result()
        reading.cancel()
        await asyncio.wait({reading})
        await self._client.confirm(_CONFIRM_S)
        self._journal.write("state", now_ms(), self._user, "closed")
        await self._client.close()
        return self._client.unconfirmed


async def main(config: ListenerConfig, journal: Journal, stop: asyncio.Event) -> None:
    settings = load_settings()
    devices = [Device(listener(number), config, settings, journal) for number in range(config.count)]
    unconfirmed = await asyncio.gather(*(device.run(stop) for device in devices))
    journal.write("end", sum(unconfirmed))


if __name__ == "__main__":
    run_party(ListenerConfig, main)
