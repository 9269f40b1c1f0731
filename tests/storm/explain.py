"""The known life of what was lost: rows, events, and where Kafka holds it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from notifyd.settings import Settings
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics
from tests.storm.check import Loss

#: Losses explained; beyond, one cause has many of them.
_MOST = 20

_TABLES = {
    "message": "SELECT id, day, state, kafka_partition, kafka_offset, accepted_at, persisted_at, persisted_by"
    " FROM message WHERE id = %s",
    "inbox": "SELECT * FROM inbox WHERE message_id = %s",
    "delivery": "SELECT * FROM delivery WHERE message_id = %s",
    "message_event": "SELECT * FROM message_event WHERE message_id = %s ORDER BY at",
    "early_event": "SELECT * FROM early_event WHERE message_id = %s",
}


async def explain(losses: Sequence[Loss], settings: Settings, journals: Iterable[Path]) -> dict[str, Any]:
    """Return what is known of the messages that the first losses are about, by id."""
    ids = list(dict.fromkeys(loss.id for loss in losses if loss.id != "-"))[:_MOST]
    lives: dict[str, Any] = {
        one: {"losses": [str(loss) for loss in losses if loss.id == one], "topics": [], "journals": []}
        for one in ids
    }
    if not ids:
        return lives
    assert settings.database_url is not None
    with (
        closing(psycopg2.connect(settings.database_url.get_secret_value())) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        for one in ids:
            for table, sql in _TABLES.items():
                cursor.execute(sql, (one,))
                lives[one][table] = [dict(row) for row in cursor.fetchall()]
    pattern = re.compile("|".join(ids).encode())
    for topic in Topics.of(settings).all():
        async with aclosing(read_topic(settings, topic)) as records:
            async for record in records:
                for found in set(pattern.findall(record.value or b"")):
                    lives[found.decode()]["topics"].append(_place(record))
    for journal in journals:
        if journal.exists():
            with journal.open("rb") as file:
                for line in file:
                    for found in set(pattern.findall(line)):
                        lives[found.decode()]["journals"].append(f"{journal.name}: {line.decode().strip()}")
    return lives


def _place(record: Any) -> dict[str, Any]:
    headers = {name: (data or b"").decode(errors="replace") for name, data in record.headers}
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "headers": {name: text for name, text in headers.items() if name.startswith("notifyd-")},
    }


def write(lives: dict[str, Any], path: Path) -> None:
    """Write lives as JSON for people."""
    path.write_text(json.dumps(lives, indent=1, default=str))
