"""What is older than a process remembers, from the database: in whole, late, or told as missing."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from pydantic import SecretStr

from notifyd.push.auth import issue_token
from notifyd.roles.persist import PersistRole
from notifyd.settings import Settings
from notifyd.store.past import read_past
from tests.fixtures.push import next_frames
from tests.fixtures.roles import surroundings
from tests.fixtures.store import INCARNATION, MESSAGES, envelope, open_database, open_store, row
from tests.fixtures.waiting import eventually
from tests.integration.test_push_resume import produce, ws_pod


async def until_complete(
    session: aiohttp.ClientSession, settings: Settings, url: str, **more: Any
) -> list[Any]:
    """Say hello, and return the frames up to the welcome that ends it."""
    frames: list[Any] = []
    async with session.ws_connect(url) as ws:
        await ws.send_json({"op": "hello", "token": issue_token(settings, "alice"), **more})
        while not frames or frames[-1]["op"] != "welcome" or frames[-1]["missing"] == "later":
            frames += await next_frames(ws, 30)
    return frames


def ids(frames: list[Any]) -> list[str]:
    return [frame["message"]["UUID"] for frame in frames if frame["op"] == "msg"]


async def test_what_the_window_lacks_comes_from_the_database_in_whole(
    settings: Settings, migrated_database_url: str
) -> None:
    settings = settings.model_copy(update={"database_url": SecretStr(migrated_database_url)})
    async with surroundings(settings) as around, aiohttp.ClientSession() as session:
        async with ws_pod(around.context) as old:
            [fresh] = await until_complete(session, settings, old.url)
        sent = [await produce(around, ["alice", "bob"]) for _ in range(150)]
        await produce(around, "alice", channels=["webhook"])
        await produce(around, "bob")
        # A window of nothing: all that came before the start is the database's.
        async with ws_pod(around.context, ws_window_s=0.0) as pod:
            waiting = asyncio.create_task(until_complete(session, settings, pod.url, cursor=fresh["cursor"]))
            await eventually(lambda: pod.role._hub.connections == 1)
            live = await produce(around, "alice")
            async with around.running(PersistRole):
                frames = await waiting
            first = next(frame for frame in frames if frame["op"] == "welcome")
            assert (first["missing"], frames[-1]["missing"], frames[-1]["replayed"]) == ("later", None, 150)
            assert sorted(ids(frames)) == sorted([*sent, live])
            assert not any("at" in frame for frame in frames)
            # The first welcome claims nothing of what was open, the last one all.
            [again] = await until_complete(session, settings, pod.url, cursor=frames[-1]["cursor"])
            assert again["missing"] is None
            frames = await until_complete(session, settings, pod.url, cursor=first["cursor"])
            assert set(sent) <= set(ids(frames))


async def test_of_a_collapse_key_the_newest_alone_is_sent_and_the_others_end_as_replaced(
    settings: Settings, migrated_database_url: str
) -> None:
    settings = settings.model_copy(update={"database_url": SecretStr(migrated_database_url)})
    async with surroundings(settings) as around, aiohttp.ClientSession() as session:
        async with ws_pod(around.context) as old:
            [fresh] = await until_complete(session, settings, old.url)
        stored = [await produce(around, "alice", collapse_key="order-1") for _ in range(3)]
        plain = await produce(around, "alice")
        # By webhook alone: newer in the inbox, and no push stands for what it replaced there.
        kept = await produce(around, "alice", collapse_key="order-2")
        await produce(around, "alice", collapse_key="order-2", channels=["webhook"])
        async with around.running(PersistRole), open_database(migrated_database_url) as database:
            async with ws_pod(around.context, ws_window_s=0.0) as pod:
                frames = await until_complete(session, settings, pod.url, cursor=fresh["cursor"])
                assert sorted(ids(frames)) == sorted([stored[-1], plain, kept])
                assert frames[-1]["replayed"] == 3
                [again] = await until_complete(session, settings, pod.url, cursor=frames[-1]["cursor"])
                assert again["missing"] is None
            async with ws_pod(around.context) as pod:  # whose window has all of it
                frames = await until_complete(session, settings, pod.url, cursor=fresh["cursor"])
                assert sorted(ids(frames)) == sorted([stored[-1], plain, kept])
            sql = """SELECT message_id::text, detail FROM delivery
                      WHERE channel = 'ws' AND state = 'skipped' AND reason = 'replaced'"""

            async def have_ended() -> bool:
                return dict(await database.fetch(sql)) == dict.fromkeys(stored[:-1], stored[-1])

            await eventually(have_ended, what="the others to end")


async def test_a_database_that_is_away_delays_the_past_and_nothing_live(settings: Settings) -> None:
    away = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")
    settings = settings.model_copy(update={"database_url": away})
    async with surroundings(settings) as around, aiohttp.ClientSession() as session:
        async with ws_pod(around.context) as old:
            [fresh] = await until_complete(session, settings, old.url)
        await produce(around, "alice")
        async with ws_pod(around.context, ws_window_s=0.0) as pod, session.ws_connect(pod.url) as ws:
            hello = {"op": "hello", "token": issue_token(settings, "alice"), "cursor": fresh["cursor"]}
            await ws.send_json(hello)
            [welcome] = await next_frames(ws)
            assert (welcome["missing"], welcome["cursor"]) == ("later", fresh["cursor"])
            live = {await produce(around, "alice") for _ in range(10)}
            got: list[Any] = []
            while len(got) < 10:
                got += await next_frames(ws)
            assert set(ids(got)) == live
            # One partition has a hole; the others go on as ever.
            assert {"at" in frame for frame in got} == {True, False} or len(got) == 10


async def test_rows_and_marks_are_of_one_moment_and_in_order(migrated_database_url: str) -> None:
    async with open_store(migrated_database_url) as store:
        values = [envelope(to=["alice", "bob"] if n % 2 else ["bob"]) for n in range(20)]
        await store.messages([row(value, offset) for offset, value in enumerate(values)])
        found = await read_past(store.database, INCARNATION, MESSAGES, "alice", {0: (3, 15), 1: (0, 5)}, 4)
        assert found.marks == {0: (0, 20)}
        assert [(partition, offset) for partition, offset, _, _ in found.rows] == [
            (0, n) for n in (3, 5, 7, 9)
        ]
        assert [raw for _, _, _, raw in found.rows] == [values[n] for n in (3, 5, 7, 9)]
        assert (await read_past(store.database, "another", MESSAGES, "alice", {0: (0, 20)}, 9)).rows == []
