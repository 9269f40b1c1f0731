"""The promises of a resume, over any order of arrivals, drops, returns, restarts and slow readers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifyd.errors import TransientError
from notifyd.metrics import Metrics
from notifyd.push.connection import Connection
from notifyd.push.cursor import Cursor, decode_cursor, encode_cursor
from notifyd.push.hub import Hub
from notifyd.push.past import Past, PastMessage, PastPage
from notifyd.push.peer import State
from notifyd.push.protocol import Hello
from notifyd.push.replay import PROOF_S
from notifyd.push.resume import SKIP, Resume, read_place
from notifyd.push.window import ENTRY_BYTES
from tests.fixtures.push import FakeEvents, FakeTransport, make_message, payloads, push_settings

USERS = ("alice", "bob")
PARTITIONS = 3
INCARNATION = "inc"
#: `RESUME_HISTORIES=3000 pytest tests/unit/push/test_resume.py` takes a minute.
HISTORIES = int(os.environ.get("RESUME_HISTORIES", "60"))


class Topic:
    """What the broker has: per partition a message or, as after a transaction, nothing at each offset."""

    def __init__(self) -> None:
        self.partitions: list[list[Any]] = [[] for _ in range(PARTITIONS)]

    def end(self, partition: int) -> int:
        return len(self.partitions[partition])

    def owed(self, user: str, partition: int, start: int, end: int) -> list[tuple[int, str]]:
        return [
            (offset, message.id)
            for offset, message in enumerate(self.partitions[partition][start:end], start)
            if message is not None and user in message.recipients
        ]


class Stored(Past):
    """A store that has read the topic up to `marks`, and is away at times."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.marks = dict.fromkeys(range(PARTITIONS), 0)
        self.firsts = dict.fromkeys(range(PARTITIONS), 0)
        self.is_away = False

    async def read(self, user: str, ranges: Any, limit: int) -> PastPage:
        await asyncio.sleep(0)
        if self.is_away:
            raise TransientError("away", reason="database_unavailable")
        rows = [
            PastMessage(self.topic.partitions[partition][offset], partition, offset)
            for partition, (start, end) in sorted(ranges.items())
            for offset, _ in self.topic.owed(user, partition, start, min(end, self.marks[partition]))
        ]
        # A page of few, so that there are several.
        page = rows[:3]
        through = (page[-1].partition, page[-1].offset) if len(rows) > 3 else None
        return PastPage({p: (self.firsts[p], self.marks[p]) for p in ranges}, page, through)


class Pod:
    """One process: it reads the topic at its own pace, from `starts` on."""

    def __init__(  # noqa: PLR0917
        self,
        topic: Topic,
        clock: Clock,
        starts: list[int],
        window_bytes: int,
        knows_end: bool,
        past: Stored | None,
    ) -> None:
        self.topic = topic
        self.hub = Hub(
            push_settings(ws_window_bytes=window_bytes, ws_max_connections_per_user=100),
            Metrics(),
            FakeEvents(),
            "pod",
            incarnation=INCARNATION,
            log_end=topic.end if knows_end else lambda partition: 0,
            past=past,
            now=lambda: clock.now_s,
            monotonic=lambda: clock.now_s,
        )
        for partition, start in enumerate(starts):
            self.hub.begin(partition, start)

    def read(self, partition: int, count: int) -> None:
        for _ in range(count):
            offset = self.hub.position(partition)
            assert offset is not None
            if offset >= self.topic.end(partition):
                return
            message = self.topic.partitions[partition][offset]
            if message is None:
                self.hub.advance(partition, offset + 1)
            else:
                self.hub.publish(message, partition, offset)

    def read_all(self) -> None:
        for partition in range(PARTITIONS):
            self.read(partition, 10_000)

    async def turn(self) -> None:
        """Let the hub do what it would in a few turns of the loop."""
        self.hub._replays.run()
        self.hub._outbox.flush()
        for _ in range(4):
            await asyncio.sleep(0)

    async def stop(self) -> None:
        await self.hub._replays.stop()
        self.hub._outbox.stop()
        self.hub._sweep.stop()


class Clock:
    def __init__(self) -> None:
        self.now_s = time.time()


class Client:
    """Keeps what it got by the rules of the protocol, and holds the server to its promises."""

    def __init__(self, topic: Topic, user: str) -> None:
        self.topic = topic
        self.user = user
        self.seen: set[str] = set()
        self.cursor: str | None = None
        self.at: dict[int, int] = {}
        self.base: dict[int, int] | None = None
        self.connection: Connection | None = None

    def connect(self, pod: Pod) -> None:
        self.connection = connection = Connection(pod.hub, lambda c, h: None)
        self.transport = FakeTransport()
        self.is_welcome = False
        self.in_connection: set[str] = set()
        self.highest: dict[int, int] = {}
        self.had = dict(self.place)
        self.claimed = dict(self.had)
        connection.connection_made(self.transport)
        pod.hub.accept(connection)
        connection.state = State.VERIFYING
        at = tuple(f"{partition}:{offset}" for partition, offset in self.at.items())
        hello = Hello() if self.cursor is None else Hello(cursor=self.cursor, at=at)
        pod.hub.join(connection, self.user, 4e9, hello)

    @property
    def place(self) -> dict[int, int]:
        if self.cursor is None:
            return {}
        return read_place(self.cursor, [f"{p}:{o}" for p, o in self.at.items()], INCARNATION) or {}

    def take(self, count: int | None = None) -> None:
        """Read so many of the writes that have come."""
        writes = self.transport.writes[:count]
        del self.transport.writes[:count]
        for write in writes:
            for payload in payloads(write):
                parsed = json.loads(payload)
                for frame in parsed if isinstance(parsed, list) else [parsed]:
                    self.take_frame(frame)

    def take_frame(self, frame: dict[str, Any]) -> None:
        if frame["op"] == "msg":
            self.take_message(frame)
        elif frame["op"] in {"welcome", "pos"}:
            decoded = decode_cursor(frame["cursor"])
            assert decoded is not None
            if frame["op"] == "welcome":
                assert not self.is_welcome
                self.is_welcome = frame["missing"] != "later"
                if self.base is None:
                    self.base = dict(decoded.offsets)
                    assert frame["missing"] is None
                elif frame["missing"] == "inbox":
                    self.read_inbox(decoded.offsets)
                    self.claimed = {}
            if not self.is_welcome and not decoded.offsets:
                self.claimed = {}  # its cursor turned out to say nothing, and it has not read its inbox
            for partition, offset in self.claimed.items():
                assert decoded.offsets.get(partition, 0) >= offset, "a cursor never goes back"
            self.claimed = dict(decoded.offsets)
            self.cursor, self.at = frame["cursor"], {}
            for partition, offset in decoded.offsets.items():
                self.check_whole(partition, offset)

    def take_message(self, frame: dict[str, Any]) -> None:
        message_id = frame["message"]["UUID"]
        if frame.get("resend"):
            assert message_id in self.in_connection
            return
        assert message_id not in self.in_connection, "nothing comes twice on a connection"
        self.in_connection.add(message_id)
        self.seen.add(message_id)
        if "at" in frame:
            partition, offset = map(int, frame["at"].split(":"))
            assert offset > self.highest.get(partition, -1), "`at` rises"
            assert offset >= self.had.get(partition, 0), "what it had is not sent again"
            self.highest[partition] = offset
            self.at[partition] = offset
            self.check_whole(partition, offset + 1)

    def check_whole(self, partition: int, end: int) -> None:
        if self.base is not None:
            start = self.base.get(partition, 0)
            lost = [o for o, i in self.topic.owed(self.user, partition, start, end) if i not in self.seen]
            assert not lost, f"{partition}: told that it has everything below {end}, lacks {lost}"

    def read_inbox(self, offsets: Any) -> None:
        self.had = {}
        for partition in range(PARTITIONS):
            owed = self.topic.owed(self.user, partition, 0, offsets.get(partition, 0))
            self.seen.update(message_id for _, message_id in owed)

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.connection_lost(None)
            self.connection = None


class Drawn:
    """Draws as `random.Random` does, from what hypothesis can shrink; that costs it ten times as much."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def choice(self, values: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(values))

    def randint(self, least: int, most: int) -> int:
        return self._data.draw(st.integers(least, most))


async def play(chance: Drawn | Random) -> None:
    clock, topic = Clock(), Topic()
    window_bytes = chance.choice([0, 4, 15, 1000]) * (ENTRY_BYTES + 600)
    knows_end = chance.choice([False, True])
    past = Stored(topic) if chance.choice([False, True]) else None
    pods = [Pod(topic, clock, [0] * PARTITIONS, window_bytes, knows_end, past) for _ in range(2)]
    clients = [Client(topic, user) for user in (*USERS, USERS[0])]

    def start_pod() -> Pod:
        starts = [chance.randint(0, topic.end(p)) for p in range(PARTITIONS)]
        pod = Pod(topic, clock, starts, window_bytes, knows_end, past)
        pod.read_all()
        return pod

    for _ in range(chance.choice([5, 20, 50])):
        step = chance.choice(["produce"] * 4 + ["read"] * 4 + ["client"] * 8 + ["turn"] * 3 + ["rare"] * 2)
        pod = chance.choice(pods)
        client = chance.choice(clients)
        partition = chance.randint(0, PARTITIONS - 1)
        if step == "produce":
            for _ in range(chance.choice([1, 2, 5, 80])):
                to = chance.choice([("alice",), ("bob",), USERS, None, ("carol",)])
                topic.partitions[partition].append(None if to is None else make_message(to))
        elif step == "read":
            pod.read(partition, chance.choice([1, 3, 200]))
        elif step == "turn":
            if past is not None:
                past.is_away = chance.choice([False, False, True])
                past.marks[partition] = chance.randint(past.marks[partition], topic.end(partition))
                if chance.randint(0, 9) == 9:
                    past.firsts[partition] = past.marks[partition]
            await pod.turn()
        elif step == "client":
            if client.connection is None:
                client.connect(pod)
            else:
                what = chance.choice(["take", "take", "drop", "drop", "full", "empty", "beat"])
                connection = client.connection
                if what in {"take", "drop"} and chance.choice([False, True]):
                    connection.flush()
                if what == "take":
                    client.take(chance.choice([None, 1, 2]))
                elif what == "drop":
                    client.take(chance.choice([None, 0, 1]))
                    client.drop()
                elif what == "full":
                    client.transport.buffered = 70_000
                    connection.pause_writing()
                elif what == "empty":
                    client.transport.buffered = 0
                    connection.resume_writing()
                elif connection.state is State.OPEN:
                    connection._hub.beat(connection)
        else:
            what = chance.choice(["restart", "wait"])
            if what == "wait":
                clock.now_s += PROOF_S
                for one in pods:
                    one.hub.tick()
                await pod.turn()
            else:
                number = pods.index(pod)
                for one in clients:
                    if one.connection is not None and one.connection._hub is pod.hub:
                        one.drop()
                await pod.stop()
                pods[number] = start_pod()
    # In the end everything is read, and every client has what it is owed.
    for pod in pods:
        pod.read_all()
    for client in clients:
        if client.connection is None or client.connection.state is not State.OPEN:
            client.connect(pods[0])
        client.transport.buffered = 0
        assert client.connection is not None
        client.connection.resume_writing()
    if past is not None:
        past.is_away = False
        past.marks = {partition: topic.end(partition) for partition in range(PARTITIONS)}
    for _ in range(100):
        clock.now_s += PROOF_S
        for pod in pods:
            pod.hub.tick()
            await pod.turn()
    for client in clients:
        assert client.connection is not None
        client.connection._hub.beat(client.connection)
        client.connection.flush()
        client.take()
        assert client.is_welcome
        assert client.place == {p: topic.end(p) for p in range(PARTITIONS) if topic.end(p)}
    for pod in pods:
        await pod.stop()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_no_gap_is_hidden_and_nothing_comes_twice(data: st.DataObject) -> None:
    asyncio.run(play(Drawn(data)))


@pytest.mark.parametrize("first_seed", range(0, HISTORIES, 20))
def test_nor_in_many_more_histories_that_nobody_shrinks(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        try:
            asyncio.run(play(Random(seed)))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@given(
    cursor=st.dictionaries(st.integers(0, 20), st.integers(0, 100)),
    at=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 100))),
)
def test_the_higher_of_cursor_and_at_counts(cursor: Any, at: Any) -> None:
    text = encode_cursor(Cursor("inc", cursor))
    place = read_place(text, [*(f"{p}:{o}" for p, o in at), "nonsense", "1:"], "inc")
    assert place is not None
    for partition in range(21):
        expected = max([cursor.get(partition, 0), *(o + 1 for p, o in at if p == partition)])
        assert place.get(partition, 0) == expected
    assert read_place(text, [], "another life") is None
    assert read_place("nonsense", [], "inc") is None


def test_while_a_hole_is_open_its_entry_stays_and_its_messages_have_no_at() -> None:
    resume = Resume({0: 5, 1: 7, 2: 30}, 0.0)
    assert resume.judge({0: 10, 1: 7, 2: 0, 3: 4}, {0: 20, 1: 20, 2: 20, 3: 9}, lambda p: 40)
    assert resume.holes == {0: (5, 10), 3: (0, 4)}
    assert resume.ahead == {2: 30}
    assert [resume.at_of(0, 9), resume.at_of(0, 10), resume.at_of(3, 8)] == [SKIP, None, None]
    assert [resume.at_of(1, 6), resume.at_of(1, 7), resume.at_of(2, 29), resume.at_of(2, 30)] == [
        SKIP,
        "1:7",
        SKIP,
        "2:30",
    ]
    resume.is_welcomed = True
    assert resume.vector({0: 20, 1: 20, 2: 20, 3: 9}) == {0: 5, 1: 20, 2: 30, 3: 0}
    assert not resume.is_over({0: 20, 1: 20, 2: 30, 3: 9})
    resume.holes = {}
    assert not resume.is_over({0: 20, 1: 20, 2: 29, 3: 9})
    assert resume.is_over({0: 20, 1: 20, 2: 30, 3: 9})


def test_a_place_beyond_the_topic_is_not_believed() -> None:
    assert not Resume({0: 41}, 0.0).judge({0: 0}, {0: 20}, lambda p: 40)
    assert not Resume({7: 1}, 0.0).judge({0: 0}, {0: 20}, lambda p: 0)


async def test_no_place_is_named_to_a_lost_client_before_it_is_sent_to_its_inbox() -> None:
    clock, topic = Clock(), Topic()
    for partition in range(PARTITIONS):
        topic.partitions[partition] = [make_message(("alice",)) for _ in range(4)]
    pod = Pod(topic, clock, [0, 2, 0], 1000 * (ENTRY_BYTES + 600), knows_end=False, past=Stored(topic))
    pod.read_all()
    client = Client(topic, "alice")
    client.base, client.cursor = {}, encode_cursor(Cursor(INCARNATION, {0: 7, 1: 1}))
    client.connect(pod)
    clock.now_s += PROOF_S
    pod.hub.tick()
    assert client.connection is not None
    pod.hub.beat(client.connection)
    await pod.turn()
    frames = []
    for write in client.transport.writes:
        for payload in payloads(write):
            parsed = json.loads(payload)
            frames += parsed if isinstance(parsed, list) else [parsed]
    assert [(frame["op"], "at" in frame) for frame in frames] == [
        ("pos", False),
        *[("msg", False)] * 10,
        ("welcome", False),
    ]
    assert frames[0]["cursor"] == encode_cursor(Cursor(INCARNATION, {}))
    assert frames[-1]["missing"] == "inbox"
    await pod.stop()


async def test_a_lost_client_that_is_slower_than_the_window_is_sent_to_its_inbox_too() -> None:
    clock, topic = Clock(), Topic()
    topic.partitions[0] = [make_message(("alice",)) for _ in range(4)]
    pod = Pod(topic, clock, [0] * PARTITIONS, 4 * (ENTRY_BYTES + 600), knows_end=False, past=Stored(topic))
    pod.read_all()
    client = Client(topic, "alice")
    client.base, client.cursor = {}, encode_cursor(Cursor("another life", {0: 2}))
    client.connect(pod)
    topic.partitions[0] += [make_message(("alice",)) for _ in range(50)]
    pod.read_all()
    for _ in range(20):
        await pod.turn()
    client.take()
    assert client.is_welcome
    assert client.place == {0: 54}
    await pod.stop()
