"""A store full of inboxes: messages, deliveries, events and inbox rows of the last days, by COPY."""

from __future__ import annotations

import datetime as dt
import io
import json
import random
import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg2

#: Rows of one COPY.
_CHUNK = 20_000
#: Commits over which the counters change for the second time.
_COUNTER_PARTS = 20
_NULL = "\\N"
_TYPES = ("order.shipped", "order.paid", "chat.message", "invoice.due")


@dataclass(frozen=True)
class Size:
    """How much there is: `rows` of inbox over `users`, of the last `days` days, `read` of them read and
    `overdue` of their deliveries without an outcome (0-1), and none of the last `backlog` with one.
    """

    rows: int
    users: int
    days: int = 30
    read: float = 0.7
    overdue: float = 0.01
    backlog: int = 50_000


def user_name(number: int) -> str:
    """Name a user of the generated store."""
    return f"user-{number:07d}"


def envelope(message_id: str, user: str, at_ms: int, kind: str = _TYPES[0]) -> bytes:
    """Write an envelope of some 400 bytes as a producer would."""
    return json.dumps(
        {
            "from": "orders",
            "UUID": message_id,
            "content": {"version": 1.1, "type": kind, "title": "On its way", "body": "x" * 200},
            "toUserIds": [user],
            "createBy": "orders-svc",
            "createDateTime": dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).isoformat(),
        }
    ).encode()


def fill(url: str, size: Size, on_progress: Callable[[int], None], *, seed: int = 1) -> list[str]:
    """Write the rows (one message a row, with one delivery and two events); return ids of some messages."""
    rng = random.Random(seed)
    samples: list[str] = []
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("INSERT INTO incarnation (name) VALUES ('bench') ON CONFLICT DO NOTHING")
        cursor.execute(
            "SELECT ensure_day(current_date - n) FROM generate_series(-1, %(days)s) AS n",
            {"days": size.days},
        )
        cursor.execute("SELECT extract(epoch FROM now())")
        now_ms = int(cursor.fetchone()[0] * 1000)
        step_ms = size.days * 86_400_000 / size.rows
        for first in range(0, size.rows, _CHUNK):
            count = min(_CHUNK, size.rows - first)
            # From the oldest on, as they would have come.
            times = [int(now_ms - (size.rows - first - n) * step_ms) for n in range(count)]
            samples += _copy(cursor, size, times, first, rng)
            connection.commit()
            on_progress(count)
        cursor.execute(
            "INSERT INTO user_state (user_id, unread, days) SELECT user_id,"
            " count(*) FILTER (WHERE read_at IS NULL), range_agg(daterange(day, day + 1))"
            " FROM inbox GROUP BY 1"
        )
        connection.commit()
        # As if they had come with a first message, and changed with the next ones: a few of a page at a time.
        for part in range(_COUNTER_PARTS):
            cursor.execute(
                "UPDATE user_state SET room = NULL WHERE mod(abs(hashtext(user_id)::bigint), %s) = %s",
                (_COUNTER_PARTS, part),
            )
            connection.commit()
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True  # VACUUM runs in no transaction
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    return samples


def _copy(cursor: object, size: Size, times: list[int], first: int, rng: random.Random) -> list[str]:
    tables: dict[str, io.StringIO] = {
        name: io.StringIO() for name in ("message", "inbox", "delivery", "message_event")
    }
    samples = []
    for n, at_ms in enumerate(times):
        offset = first + n
        message_id = _id_at(at_ms, rng)
        user = user_name(rng.randrange(size.users))
        at = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
        day, acked = at.date().isoformat(), at + dt.timedelta(milliseconds=90)
        kind = rng.choice(_TYPES)
        raw = envelope(message_id, user, at_ms, kind)
        read_at = str(acked) if rng.random() < size.read else _NULL
        tables["message"].write(
            f"{message_id}\t{day}\t\\\\x{secrets.token_hex(16)}\tdone\t1\t{offset % 12}\t{offset // 12}\t{at}"
            f"\tbench\t{at}\torders\torders-svc\t{kind}\t\\\\x{raw.hex()}\n"
        )
        tables["inbox"].write(
            f"{user}\t{message_id}\t{day}\t1\t{offset % 12}\t{offset // 12}\t{at}\t{read_at}\t{read_at}\n"
        )
        is_overdue = rng.random() < size.overdue or offset >= size.rows - size.backlog
        end = (
            f"pending\t0\t{at}\tp-1\t0\tf\t{acked}"
            if is_overdue
            else f"acked\t1\t{acked}\tws-1\t1\tt\t{_NULL}"
        )
        tables["delivery"].write(f"{message_id}\t{user}\tws\t{day}\t{end}\n")
        for stage in ("sent", "acked"):
            tables["message_event"].write(
                f"{message_id}\t{secrets.token_hex(16)}\t{day}\t{user}\tws\t{stage}\t\t1\t{acked}\tws-1\n"
            )
        if offset % max(1, size.rows // 2000) == 0:
            samples.append(message_id)
    for name, columns in _COLUMNS.items():
        tables[name].seek(0)
        cursor.copy_expert(f"COPY {name} ({columns}) FROM STDIN", tables[name])  # type: ignore[attr-defined]
    return samples


_COLUMNS = {
    "message": "id, day, digest, state, incarnation_id, kafka_partition, kafka_offset, accepted_at,"
    " persisted_by, created_at, sender, created_by, type, raw",
    "inbox": "user_id, message_id, day, incarnation_id, kafka_partition, kafka_offset, arrived_at, seen_at,"
    " read_at",
    "delivery": "message_id, user_id, channel, day, state, attempt, at, pod, attempts, is_final,"
    " next_check_at",
    "message_event": "message_id, event_key, day, user_id, channel, stage, run, attempt, at, pod",
}


def _id_at(at_ms: int, rng: random.Random) -> str:
    number = at_ms << 80 | 0x7 << 76 | rng.getrandbits(12) << 64 | 0b10 << 62 | rng.getrandbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
