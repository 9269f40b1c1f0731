"""The backend of a storm as a process: sends at a set rate, and again under the same id until confirmed.

Journal: `ok ID NUMBER HANDED_AT_MS CONFIRMED_AT_MS PARTITION:OFFSET TRIES` for each confirmed message,
`failed ID REASON` for each call of `on_failed`, `unsure ID NUMBER` for what was never confirmed, and
`end ERRORS ON_FAILED` last.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import msgspec

from notifyd.errors import NotifydError
from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.producer import Confirmation, Notifier
from notifyd.producer.notifier import Outgoing
from notifyd.settings import load_settings
from tests.storm.messages import PLANS, Planned
from tests.storm.records import Journal, now_ms, run_party

#: Messages handed over together, and how many such handfuls may wait for the broker.
_CHUNK = 20
_MAX_CHUNKS = 50
_AGAIN_S = 0.25


class ProducerConfig(msgspec.Struct, frozen=True):
    """`count` messages of `plan` at `per_s`; `listeners` users listen, webhooks go to `hook_port`."""

    seed: int
    count: int
    per_s: float
    listeners: int
    hook_port: int
    timeout_s: float
    plan: str = "all"


class Backend:
    """Sends the messages of one storm."""

    def __init__(self, config: ProducerConfig, journal: Journal, stop: asyncio.Event) -> None:
        self._config = config
        self._journal = journal
        self._stop = stop
        self._errors = 0
        self._on_failed_calls = 0
        self._room = asyncio.Semaphore(_MAX_CHUNKS)

    async def run(self) -> None:
        """Send everything, or until told to stop."""
        config = self._config
        clock = asyncio.get_running_loop().time
        notifier = Notifier(
            load_settings(),
            sender="storm",
            on_failed=self._on_failed,
            producer_timeout_s=config.timeout_s,
        )
        async with notifier, asyncio.TaskGroup() as tasks:
            began = clock()
            for first in range(0, config.count, _CHUNK):
                await self._pause(began + first / config.per_s - clock())
                await self._room.acquire()
                if self._stop.is_set():
                    break
                tasks.create_task(self._send(notifier, range(first, min(first + _CHUNK, config.count))))
        self._journal.write("end", self._errors, self._on_failed_calls)

    async def _pause(self, wait_s: float) -> None:
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_s)

    def _on_failed(self, message: Outgoing, error: NotifydError) -> None:
        self._on_failed_calls += 1
        self._journal.write("failed", message.id, error.reason)

    async def _send(self, notifier: Notifier, numbers: range) -> None:
        config = self._config
        todo: list[tuple[str, Planned, dict[str, object]]] = []
        for number in numbers:
            plan = PLANS[config.plan](config.seed, number, config.listeners)
            message_id = str(uuid.uuid4()) if plan.has_random_id else new_id()
            parts = plan.parts(message_id, config.hook_port)
            key = parts.pop("key", None)
            # Built once: the same id with other bytes would be another message, and dead.
            envelope = build_envelope(sender="storm", created_by="storm", **parts)
            todo.append((message_id, plan, {"envelope": envelope, "key": key}))
        handed_ms, tries = now_ms(), 0
        try:
            while todo:
                tries += 1
                results = await notifier.send_many([item for _, _, item in todo])
                again = []
                for (message_id, plan, item), result in zip(todo, results, strict=True):
                    if isinstance(result, Confirmation):
                        place = f"{result.partition}:{result.offset}"
                        self._journal.write("ok", message_id, plan.number, handed_ms, now_ms(), place, tries)
                    else:
                        self._errors += 1
                        again.append((message_id, plan, item))
                todo = again
                if todo and self._stop.is_set():
                    break
                if todo:
                    await self._pause(_AGAIN_S)
            for message_id, plan, _ in todo:
                self._journal.write("unsure", message_id, plan.number)
        finally:
            self._room.release()


async def main(config: ProducerConfig, journal: Journal, stop: asyncio.Event) -> None:
    await Backend(config, journal, stop).run()


if __name__ == "__main__":
    run_party(ProducerConfig, main)
