"""The promises of a resume, over any order of arrivals, drops, returns, restarts and slow readers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifyd.errors import TransientError
from notifyd.message.envelope import Limits, decode
from notifyd.metrics import Metrics
from notifyd.push.connection import Connection
from notifyd.push.cursor import Cursor, decode_cursor, encode_cursor
from notifyd.push.hub import Hub
from notifyd.push.past import Past, PastMessage, PastPage
from notifyd.push.peer import State
from notifyd.push.protocol import Hello
from notifyd.push.replaced import key_of
from notifyd.push.replay import PROOF_S
from notifyd.push.resume import SKIP, Resume, read_place
from notifyd.push.window import ENTRY_BYTES
from tests.fixtures.push import FakeEvents, FakeTransport, make_message, payloads, push_settings

USERS = ("alice", "bob")
PARTITIONS = 3
INCARNATION = "inc"
BASE_MS = int(time.time() * 1000)
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

    def newest(self, user: str, key: tuple[str, str], marks: Mapping[int, int]) -> Any:
        """The newest message of a key that a user has below `marks`, by the rule of the inbox."""
        found = [
            message
            for partition, messages in enumerate(self.partitions)
            for message in messages[: marks[partition]]
            if message is not None and user in message.recipients and key_of(message) == key
        ]
        return max(found, key=order, default=None)

    def newer(self, user: str, message: Any, marks: Mapping[int, int] | None = None) -> Any:
        """What has replaced a message, if anything has."""
        key = key_of(message)
        if key is None:
            return None
        newest = self.newest(user, key, marks or {p: self.end(p) for p in range(PARTITIONS)})
        return newest if newest is not None and order(newest) > order(message) else None


def order(message: Any) -> tuple[int, str]:
    return message.timestamp_ms, message.id


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
            (partition, offset, self.topic.partitions[partition][offset])
            for partition, (start, end) in sorted(ranges.items())
            for offset, _ in self.topic.owed(user, partition, start, min(end, self.marks[partition]))
        ]
        # A page of few, so that there are several.
        page = []
        for partition, offset, message in rows[:3]:
            newer = self.topic.newer(user, message, self.marks)
            page.append(PastMessage(message, partition, offset, newer and newer.id))
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
        self.events = FakeEvents()
        self.hub = Hub(
            push_settings(ws_window_bytes=window_bytes, ws_max_connections_per_user=100),
            Metrics(),
            self.events,
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
        messages: dict[str, Any] = {}
        for one in (one for each in self.topic.partitions for one in each if one is not None):
            messages.setdefault(one.id, one)
        for event in self.events.posted:
            if event.stage == "skipped":
                old, new = messages[event.id], messages[event.detail or ""]
                assert event.user in new.recipients
                assert key_of(old) == key_of(new) is not None
                assert order(new) > order(old)
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
            messages = self.topic.partitions[partition]
            lost = [
                offset
                for offset, message_id in self.topic.owed(self.user, partition, start, end)
                if message_id not in self.seen and self.topic.newer(self.user, messages[offset]) is None
            ]
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
                key = chance.choice([None, None, "a", "b"])
                # Partitions are written by brokers of their own, and now and then by a clock that is behind.
                at_ms = int(clock.now_s * 1000) + chance.randint(-3, 3)
                message = None if to is None else make_message(to, timestamp_ms=at_ms, collapse_key=key)
                topic.partitions[partition].append(message)
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


def sent(transport: FakeTransport) -> list[str]:
    """Return the ids of the messages among what was written."""
    found = []
    for write in transport.writes:
        for payload in payloads(write):
            parsed = json.loads(payload)
            frames = parsed if isinstance(parsed, list) else [parsed]
            found += [frame["message"]["UUID"] for frame in frames if frame["op"] == "msg"]
    return found


async def replay(
    partitions: Sequence[Sequence[Any]], *, starts: Sequence[int] = (0,) * PARTITIONS, stored: bool = False
) -> tuple[list[str], Client, Pod]:
    """Return what a client that was here before all of this is sent, by a process that began at `starts`."""
    topic, clock = Topic(), Clock()
    for number, messages in enumerate(partitions):
        topic.partitions[number] = list(messages)
    past = Stored(topic)
    past.marks = {p: topic.end(p) for p in range(PARTITIONS)} if stored else dict(enumerate(starts))
    pod = Pod(topic, clock, list(starts), 1000 * (ENTRY_BYTES + 600), knows_end=True, past=past)
    pod.read_all()
    client = Client(topic, "alice")
    client.base, client.cursor = {}, encode_cursor(Cursor(INCARNATION, {}))
    client.connect(pod)
    assert client.connection is not None
    for _ in range(5):
        await pod.turn()
        pod.hub.tick()
    client.connection.flush()
    return sent(client.transport), client, pod


def message(at_ms: int, key: str | None = "k", **parts: Any) -> Any:
    return make_message(("alice", "bob"), timestamp_ms=BASE_MS + at_ms, collapse_key=key, **parts)


async def test_what_a_newer_one_replaced_is_not_sent_and_the_cursor_passes_it() -> None:
    old, plain, other, another_key, new = (
        message(0), message(1, None), message(2, sender="billing"), message(3, "j"), message(4)
    )  # fmt: skip
    ids, client, pod = await replay([[old, plain, other], [another_key, new]])
    assert set(ids) == {one.id for one in (plain, other, another_key, new)}
    client.take()
    assert client.place == {0: 3, 1: 2}
    [event] = [event for event in pod.events.posted if event.stage == "skipped"]
    assert (event.id, event.user, event.channel, event.reason, event.detail, event.attempt, event.run) == (
        old.id, "alice", "ws", "replaced", new.id, 1, ""
    )  # fmt: skip
    await pod.stop()


async def test_the_newest_is_the_one_that_came_last_whatever_the_order_of_partitions() -> None:
    first, second, third = message(1), message(3), message(5)
    ids, _, pod = await replay([[third], [first], [second]])
    assert ids == [third.id]
    await pod.stop()
    # By the clock of its sender the last to come was made first: in doubt both are sent, in their order.
    late, early = message(5), message(1)
    ids, _, pod = await replay([[early, late]])
    assert ids == [early.id, late.id]
    await pod.stop()


async def test_what_replaced_it_may_have_been_had_before() -> None:
    topic, clock = Topic(), Clock()
    old, new = message(0), message(1)
    topic.partitions[0], topic.partitions[1] = [old], [new]
    pod = Pod(topic, clock, [0] * PARTITIONS, 1000 * (ENTRY_BYTES + 600), knows_end=True, past=None)
    pod.read_all()
    client = Client(topic, "alice")
    client.base = {1: 1}
    client.cursor = encode_cursor(Cursor(INCARNATION, {1: 1}))
    client.connect(pod)
    await pod.turn()
    assert sent(client.transport) == []
    await pod.stop()


@pytest.mark.parametrize(
    "new",
    [
        {"channels": ["webhook"]},
        {"not_before": "2100-01-01T00:00:00Z"},
        {"sender": "billing"},
        {"key": "j"},
    ],
    ids=["another-channel", "scheduled", "another-sender", "another-key"],
)
async def test_what_is_not_pushed_or_of_another_key_replaces_nothing(new: dict[str, Any]) -> None:
    old = message(0)
    ids, _, pod = await replay([[old, message(1, new.pop("key", "k"), **new)]])
    assert old.id in ids
    await pod.stop()


async def test_a_message_that_came_twice_is_no_newer_for_that() -> None:
    first, new = message(0), message(1)
    again = decode(first.raw, timestamp_ms=new.timestamp_ms + 5, limits=Limits())
    ids, _, pod = await replay([[first, new], [again]])
    assert ids == [new.id]
    await pod.stop()
    # Of the first time this process knows nothing: nobody loses what replaced it.
    ids, _, pod = await replay([[new], [again]])
    assert new.id in ids
    await pod.stop()


async def test_of_what_is_stored_the_newest_alone_is_sent() -> None:
    stored_old, stored_new, middle, new = message(0), message(1, "j"), message(2), message(3, "j")
    lone = message(4, "lone")
    ids, client, pod = await replay(
        [[stored_old, stored_new, lone], [middle, new]], starts=(3, 0, 0), stored=True
    )
    assert sorted(ids) == sorted([middle.id, new.id, lone.id])
    client.take()
    assert client.place == {0: 3, 1: 2}
    skipped = {event.id: event.detail for event in pod.events.posted if event.stage == "skipped"}
    assert skipped == {stored_old.id: middle.id, stored_new.id: new.id}
    await pod.stop()


async def test_what_the_window_knows_to_be_newer_stands_for_what_is_stored_before_it_is_stored_itself() -> (
    None
):
    old, new = message(0), message(1)
    ids, _, pod = await replay([[old], [new]], starts=(1, 0, 0))
    assert ids == [new.id]
    await pod.stop()


async def test_live_messages_are_each_sent() -> None:
    _, client, pod = await replay([[]])
    client.take()
    old, new = message(0), message(1)
    pod.topic.partitions[0] += [old, new]
    pod.read_all()
    await pod.turn()
    assert sent(client.transport) == [old.id, new.id]
    await pod.stop()
