"""Reads what the parties of a storm wrote down and what the database holds, for the checker."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg2

from tests.storm.check import Facts, Sent
from tests.storm.messages import PLANS
from tests.storm.records import lines_of

#: Open to the end of the storm.
_FOREVER_MS = 1 << 62

_WRONG_COUNTERS = """
    SELECT count(*) FROM user_state s FULL JOIN
      (SELECT user_id, count(*) AS n FROM inbox WHERE read_at IS NULL GROUP BY 1) i USING (user_id)
    WHERE coalesce(s.unread, 0) <> coalesce(i.n, 0)
"""


async def collect(logs: Path, database_url: str, *, seed: int, listeners: int) -> Facts:
    """Return all facts; the parties have ended, and nothing moves any more."""
    return await asyncio.to_thread(collect_now, logs, database_url, seed=seed, listeners=listeners)


def collect_now(logs: Path, database_url: str, *, seed: int, listeners: int) -> Facts:
    """Do what `collect` does, and block for as long as that takes."""
    backends = [logs / "produce.journal", logs / "call.journal"]
    facts = read_backend(backends, seed=seed, listeners=listeners)
    facts.good_calls, facts.failed_calls = read_calls(logs / "receive.journal")
    facts.receipts, facts.acks, facts.connected = read_devices(logs / "listen.journal")
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:

        def rows(sql: str) -> list[Any]:
            cursor.execute(sql)
            return cursor.fetchall()

        facts.rows = rows("SELECT id::text, state FROM message")
        facts.inbox = rows("SELECT message_id::text, user_id FROM inbox")
        facts.deliveries = rows("SELECT message_id::text, user_id, channel, state FROM delivery")
        facts.wrong_counters = rows(_WRONG_COUNTERS)[0][0]
        facts.early_events = rows("SELECT count(*) FROM early_event")[0][0]
        facts.sent_events = rows(
            "SELECT count(*) FROM message_event WHERE channel = 'webhook' AND stage = 'sent'"
        )[0][0]
    return facts


def read_backend(journals: Iterable[Path], *, seed: int, listeners: int, plan: str = "all") -> Facts:
    """Read what was confirmed and what was not; a journal that is not there says nothing."""
    sent: dict[str, Sent] = {}
    unsure: set[str] = set()
    errors = on_failed = 0
    for kind, *parts in chain.from_iterable(map(lines_of, journals)):
        if kind == "ok":
            message_id, number, handed_ms, confirmed_ms, place, _ = parts
            planned = PLANS[plan](seed, int(number), listeners)
            sent[message_id] = Sent(
                message_id, planned.users, planned.channels, int(handed_ms), int(confirmed_ms), place
            )
        elif kind == "unsure":
            unsure.add(parts[0])
        elif kind == "end":
            errors += int(parts[0])
            on_failed += int(parts[1])
    return Facts(sent=sent, unsure=unsure, errors=errors, on_failed=on_failed)


def read_calls(journal: Path) -> tuple[Counter[tuple[str, str]], int]:
    """Count the calls answered with 200 by (id, user), and the others."""
    good: Counter[tuple[str, str]] = Counter()
    failed = 0
    for _, status, message_id, user in lines_of(journal):
        if status == "200":
            good[message_id, user] += 1
        else:
            failed += 1
    return good, failed


def read_devices(
    journal: Path,
) -> tuple[set[tuple[str, str]], set[tuple[str, str]], dict[str, list[tuple[int, int]]]]:
    """Return what devices received and had acknowledged, by (id, user), and when each was connected."""
    receipts: set[tuple[str, str]] = set()
    acks: set[tuple[str, str]] = set()
    connected: dict[str, list[tuple[int, int]]] = defaultdict(list)
    since: dict[str, int] = {}
    for kind, *parts in lines_of(journal):
        if kind == "end":
            continue
        at, user, what = parts
        if kind == "msg":
            receipts.add((what, user))
        elif kind == "ok":
            acks.add((what, user))
        elif what == "open":
            since[user] = int(at)
        elif user in since:
            connected[user].append((since.pop(user), int(at)))
    for user, at_ms in since.items():
        connected[user].append((at_ms, _FOREVER_MS))
    return receipts, acks, dict(connected)


def count_connected(journal: Path) -> int:
    """Count the devices that have a connection by now."""
    states = {parts[1]: parts[2] for kind, *parts in lines_of(journal) if kind == "state"}
    return sum(1 for state in states.values() if state == "open")


def read_reconnects(journal: Path) -> list[float]:
    """Return how long devices were without a connection, each time (s)."""
    gone: dict[str, int] = {}
    found = []
    for kind, *parts in lines_of(journal):
        if kind != "state":
            continue
        at, user, state = parts
        if state == "waiting":
            gone.setdefault(user, int(at))
        elif state == "open" and user in gone:
            found.append((int(at) - gone.pop(user)) / 1000)
    return found
