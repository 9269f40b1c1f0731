"""The devices of a push storm as a process: each acks what it gets, and has troubles of its own.

Journal: `KIND AT_MS DEVICE ...`. `msg ID` for each message, `twice ID` where the client gave it out again,
`inbox ID` for what it read there, `ok ID` for each ack that was confirmed, `welcome MISSING REPLAYED`,
`trouble KIND`, `state STATE PORT` for each change; `end UNCONFIRMED REPEATS CPU_S LAG_S` last.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import psycopg2
from yarl import URL

from notifyd.client import PushClient
from notifyd.push.auth import issue_token
from notifyd.settings import Settings, load_settings
from tests.fixtures import protocol
from tests.storm.messages import listener
from tests.storm.records import Journal, now_ms, run_party

_TOKEN_TTL_S: Final = 24 * 3600.0
_CONFIRM_S: Final = 15.0
#: The network cut without a word; a reader that stands still; an app that is closed, and opened again later.
_TROUBLES: Final = {"cut": 80, "freeze": 10, "away": 10}
_FREEZE_S: Final = (2.0, 20.0)
_AWAY_S: Final = (5.0, 60.0)
#: Of ten users one has a second device; of twenty devices one gets server-sent events.
_TWINS: Final = 10
_STREAMS: Final = 20
_INBOX: Final = "SELECT message_id::text FROM inbox WHERE user_id = %s"
_INBOX_AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.2


class DevicesConfig(msgspec.Struct, frozen=True):
    """Devices number `first` to `first + count` of `total`. `urls` are tried in this order, or shuffled.

    From all being connected on, `troubles_per_s` come for `troubles_s`.
    """

    seed: int
    total: int
    first: int
    count: int
    urls: tuple[str, ...]
    is_shuffled: bool = True
    has_streams: bool = True
    troubles_per_s: float = 0.0
    troubles_s: float = 0.0


def count_users(devices: int) -> int:
    """Return how many users so many devices belong to."""
    return devices - devices // (_TWINS + 1)


def name_device(number: int, total: int) -> str:
    """Name a device after its user: `listener-7`, and `listener-7~2` for a second one."""
    users = count_users(total)
    return listener(number) if number < users else f"{listener(number - users)}~2"


def user_of(device: str) -> str:
    """Return whose device this is."""
    return device.partition("~")[0]


class _Client(PushClient):
    """Counts what came twice."""

    repeats = 0

    def _take_message(self, frame: dict[str, Any]) -> bool:
        is_new = super()._take_message(frame)
        self.repeats += not is_new
        return is_new


class Device:
    """One device. What it knows outlives the app on it: the messages, and the cursor."""

    def __init__(self, number: int, config: DevicesConfig, settings: Settings, journal: Journal) -> None:
        self.name = name_device(number, config.total)
        self.repeats = self.unconfirmed = 0
        self.is_open = False
        self._user = user_of(self.name)
        self._settings = settings
        self._journal = journal
        self._chance = random.Random(f"{config.seed} {self.name}")
        self._urls = _urls_of(number, config, self._chance)
        self._token = issue_token(settings, self._user, ttl_s=_TOKEN_TTL_S)
        self._cursor: str | None = None
        self._got: set[str] = set()
        self._away_s = 0.0
        self._leaves = asyncio.Event()
        self._client = self._new_client()

    def _new_client(self) -> _Client:
        return _Client(
            self._urls,
            self._token,
            cursor=self._cursor,
            on_connection=self._on_connection,
            on_gap=self._read_inbox,
            random_=self._chance,
        )

    def _write(self, kind: str, *parts: object) -> None:
        self._journal.write(kind, now_ms(), self.name, *parts)

    def _on_connection(self, state: str, _: str) -> None:
        self.is_open = state == "open"
        self._write("state", state, URL(self._client.url).port)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`, with breaks."""
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            reading = asyncio.create_task(self._read(self._client))
            leaving = asyncio.create_task(self._leaves.wait())
            await asyncio.wait({reading, leaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if reading.done():
                self._write("state", "died", 0)
                reading.result()
            reading.cancel()
            await asyncio.wait({reading})
            if self._leaves.is_set() and not stop.is_set():
                self._leaves.clear()
                await self._be_away(stopping)
        await self._client.confirm(_CONFIRM_S)
        await self._end()
        self.unconfirmed = self._client.unconfirmed

    async def _read(self, client: _Client) -> None:
        given: set[str] = set()
        async for frame in client:
            # Nothing waits between here and where it is kept: the cursor claims no more than that.
            if frame["op"] == "msg":
                message_id = frame["message"]["UUID"]
                if message_id in given:
                    self._write("twice", message_id)
                given.add(message_id)
                if message_id in self._got:
                    self.repeats += 1
                else:
                    self._got.add(message_id)
                    self._write("msg", message_id)
            elif frame["op"] == "ok":
                for message_id in frame.get("ack", ()):
                    self._write("ok", message_id)
            elif frame["op"] == "welcome":
                self._write("welcome", frame["missing"] or "nothing", frame["replayed"])

    async def _read_inbox(self, _: dict[str, Any]) -> None:
        """Read the inbox to its end, however long the database is away."""
        while True:
            try:
                found = await asyncio.to_thread(self._ask_inbox)
                break
            except psycopg2.OperationalError:
                await asyncio.sleep(_INBOX_AGAIN_S)
        for message_id in set(found) - self._got:
            self._got.add(message_id)
            self._write("inbox", message_id)

    def _ask_inbox(self) -> list[str]:
        assert self._settings.database_url is not None
        connection = psycopg2.connect(self._settings.database_url.get_secret_value())
        try:
            with connection.cursor() as cursor:
                cursor.execute(_INBOX, (self._user,))
                return [row[0] for row in cursor.fetchall()]
        finally:
            connection.close()

    # Troubles

    def trouble(self, kind: str) -> None:
        """Bring one of `_TROUBLES` over it, where it has a connection."""
        transport = _transport_of(self._client)
        if transport is None or transport.is_closing() or not self.is_open:
            return
        self._write("trouble", kind)
        if kind == "cut":
            transport.abort()
        elif kind == "freeze":
            transport.pause_reading()
            self._write("state", "frozen", 0)
            asyncio.get_running_loop().call_later(self._chance.uniform(*_FREEZE_S), self._thaw, transport)
        else:
            self._away_s = self._chance.uniform(*_AWAY_S)
            self._leaves.set()

    def _thaw(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.resume_reading()
            self._write("state", "thawed", 0)

    async def _be_away(self, stopping: asyncio.Task[Any]) -> None:
        await self._end()
        await asyncio.wait({stopping}, timeout=self._away_s)
        self._client = self._new_client()

    async def _end(self) -> None:
        self._write("state", "away", 0)
        await self._client.close()
        self._cursor = self._client.cursor
        self.repeats += self._client.repeats
        self.is_open = False


def _urls_of(number: int, config: DevicesConfig, chance: random.Random) -> Sequence[str]:
    urls = chance.sample(config.urls, len(config.urls)) if config.is_shuffled else config.urls
    if config.has_streams and number % _STREAMS == 0:
        return [f"{url.replace('ws', 'http', 1)}/sse" for url in urls]
    return urls


def _transport_of(client: PushClient) -> asyncio.Transport | None:
    """Reach for the socket of a client: a network asks nobody before it goes."""
    link: Any = client._link
    response = getattr(getattr(link, "_ws", link), "_response", None)
    connection = response.connection if response is not None else None
    return connection.transport if connection is not None else None


async def _trouble(devices: Sequence[Device], config: DevicesConfig) -> None:
    chance = random.Random(f"troubles {config.seed} {config.first}")
    clock = asyncio.get_running_loop().time
    while not all(device.is_open for device in devices):  # noqa: ASYNC110 - looked at once in a while
        await asyncio.sleep(_LOOK_S)
    ends_at = clock() + config.troubles_s
    while config.troubles_per_s and clock() < ends_at:
        await asyncio.sleep(chance.expovariate(config.troubles_per_s))
        (kind,) = chance.choices(list(_TROUBLES), list(_TROUBLES.values()))
        chance.choice(devices).trouble(kind)


class _Lag:
    """How late this process itself was at the most: what it measures of others is no better."""

    def __init__(self) -> None:
        self.most_s = 0.0

    async def watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(_LOOK_S)
            self.most_s = max(self.most_s, clock() - began - _LOOK_S)


async def main(config: DevicesConfig, journal: Journal, stop: asyncio.Event) -> None:
    protocol.install()
    settings = load_settings()
    numbers = range(config.first, config.first + config.count)
    devices = [Device(number, config, settings, journal) for number in numbers]
    lag = _Lag()
    aside = [asyncio.create_task(_trouble(devices, config)), asyncio.create_task(lag.watch())]
    await asyncio.gather(*(device.run(stop) for device in devices))
    for task in aside:
        task.cancel()
    await asyncio.gather(*aside, return_exceptions=True)
    unconfirmed, repeats = (
        sum(device.unconfirmed for device in devices),
        sum(device.repeats for device in devices),
    )
    journal.write("end", unconfirmed, repeats, round(time.process_time(), 1), round(lag.most_s, 2))


if __name__ == "__main__":
    run_party(DevicesConfig, main)
