"""How long a retry waits against what its policy says, with the role restarted in between:
`python -m benchmarks.rungs [--attempts 4]`.

Messages go to the `stub` channel, which fails at each attempt. A process of role `deliver` works on
them; while they wait on a rung it is ended by SIGTERM and another one started, twice on each. A wait
is the time from the event that a delivery failed to that of its next attempt, by the clock of the
process that wrote it. The last attempt must be dead, and there must be no other.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from notifyd.delivery.event import Event, decode_events
from notifyd.delivery.retry import RUNGS
from notifyd.dev.kafka import LocalKafka, find_jars
from notifyd.message.ids import new_id

#: A restart while a rung is waited for: after these shares of it.
_RESTART_AT = (0.3, 0.7)


class Deliver:
    """A process of role `deliver`, started again and again."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.exits: list[int] = []

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "notifyd", "--role=deliver"], env=self._env, stdout=log, stderr=log
            )

    def stop(self) -> None:
        """End it, and note how it ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self.exits.append(self._process.wait(60))
            self._process = None


async def measure(servers: str, count: int, attempts: int, deliver: Deliver, prefix: str) -> list[Event]:
    """Send `count` messages and restart the role until each is dead; return all their events."""
    consumer = AIOKafkaConsumer(
        f"{prefix}events", bootstrap_servers=servers, auto_offset_reset="earliest", group_id=None
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    await consumer.start()
    events: list[Event] = []
    deliver.start()
    try:
        for number in range(count):
            await producer.send_and_wait(f"{prefix}messages", _message(), key=b"%d" % number)
        for attempt in range(1, attempts + 1):
            await _read_until(consumer, events, attempt, count)
            print(f"  attempt {attempt} of {count} deliveries has failed", file=sys.stderr, flush=True)
            if attempt < attempts:
                wait_s, restarted = RUNGS[min(attempt, len(RUNGS)) - 1][1], 0.0
                for share in _RESTART_AT if wait_s > 30 else _RESTART_AT[:1]:
                    await asyncio.sleep((share - restarted) * wait_s)
                    restarted = share
                    await asyncio.to_thread(deliver.stop)
                    deliver.start()
        # Whatever comes after the last attempt would be one too many.
        await asyncio.sleep(RUNGS[0][1] * 2)
        await _read_until(consumer, events, 0, 0)
    finally:
        await asyncio.to_thread(deliver.stop)
        await consumer.stop()
        await producer.stop()
    return events


async def _read_until(consumer: AIOKafkaConsumer, events: list[Event], attempt: int, count: int) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            events.extend(event for record in records for event in decode_events(record.value))
        if len({event.id for event in events if event.attempt >= attempt}) >= count:
            return


def _message() -> bytes:
    message = {
        "from": "rungs",
        "UUID": new_id(),
        "content": {"version": 1, "title": "?", "channels": ["stub"]},
        "toUserIds": ["alice"],
        "createBy": "rungs",
        "createDateTime": "2026-01-01T00:00:00Z",
    }
    return json.dumps(message).encode()


def report(events: list[Event], attempts: int, exits: list[int]) -> dict[str, object]:
    """Compare the waits with the policy."""
    by_id: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_id[event.id].append(event)
    waits: dict[str, list[float]] = defaultdict(list)
    wrong = 0
    for life in by_id.values():
        life.sort(key=lambda event: event.at)
        stages = [(event.stage, event.attempt) for event in life]
        wanted = [("retry_wait", n) for n in range(1, attempts)] + [("dead", attempts)]
        wrong += stages != wanted
        for before, after in itertools.pairwise(life):
            rung, rung_s = RUNGS[min(before.attempt, len(RUNGS)) - 1]
            waits[rung].append((after.at - before.at) / 1000 / rung_s)
    return {
        "deliveries": len(by_id),
        "attempts": attempts,
        "wrong_lives": wrong,
        "restarts": len(exits) - 1,
        "exits": exits,
        "wait_to_policy": {
            rung: {
                "least": round(min(ratios), 3),
                "median": round(statistics.median(ratios), 3),
                "most": round(max(ratios), 3),
            }
            for rung, ratios in waits.items()
        },
    }


def main() -> int:
    """Measure, print, and return 0 where all waits are within 20 % and all lives as set."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rungs", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--attempts", type=int, default=4, help="2: 5 s, 3: and 1 min, 4: and 10 min (4)")
    parser.add_argument("--messages", type=int, default=200, help="how many (200)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    if not find_jars():
        parser.error("this needs Apache Kafka: `make kafka` fetches it")
    with tempfile.TemporaryDirectory() as name:
        directory, prefix = Path(name), f"rungs-{uuid.uuid4().hex[:6]}."
        broker = LocalKafka(directory / "kafka")
        try:
            servers = broker.start()
            env = {key: value for key, value in os.environ.items() if not key.startswith("NOTIFYD_")} | {
                "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": servers,
                "NOTIFYD_TOPIC_PREFIX": prefix,
                "NOTIFYD_ADMIN_PORT": "0",
                "NOTIFYD_TOPIC_REPLICATION": "1",
                "NOTIFYD_STUB_SCRIPT": "retry",
                # Or their sender is paused, for so many die.
                "NOTIFYD_PAUSE_MIN_DEAD": "1000000",
                "NOTIFYD_RETRY_MAX_ATTEMPTS": str(args.attempts),
            }
            subprocess.run(
                [sys.executable, "-m", "notifyd", "topics", "create"], env=env, check=True, stdout=sys.stderr
            )
            deliver = Deliver(env, directory / "deliver.log")
            events = asyncio.run(measure(servers, args.messages, args.attempts, deliver, prefix))
        finally:
            broker.stop()
    told = report(events, args.attempts, deliver.exits)
    waits: dict[str, dict[str, float]] = told["wait_to_policy"]  # type: ignore[assignment]
    if args.json:
        print(json.dumps(told))
    else:
        print(
            f"{told['deliveries']} deliveries, {told['restarts']} restarts of the role, "
            f"{told['wrong_lives']} lives other than {args.attempts} attempts and dead"
        )
        for rung, row in waits.items():
            print(f"  rung {rung:4} waited {row['median']:.3f} of policy [{row['least']} .. {row['most']}]")
    is_good = not told["wrong_lives"] and told["deliveries"] == args.messages and not any(deliver.exits)
    return 0 if is_good and all(row["least"] >= 0.8 and row["most"] <= 1.2 for row in waits.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
