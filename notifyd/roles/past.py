"""The past of the role `ws`: what `persist` stored, for clients that were away for longer than a window."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from notifyd.errors import InvalidMessage
from notifyd.log import get_logger
from notifyd.message.envelope import decode
from notifyd.push.past import PastMessage, PastPage, Ranges
from notifyd.push.replaced import key_of as collapse_key_of
from notifyd.roles.context import RoleContext
from notifyd.store.cipher import ContentKeyError
from notifyd.store.collapse import key_of, read_newest
from notifyd.store.past import read_past
from notifyd.store.pool import Database

_log = get_logger(component="push")

#: Tells the first offset of each partition that the broker still has.
Firsts = Callable[[Sequence[int]], Awaitable[Mapping[int, int]]]


class StoredMessages:
    """Reads what is stored, and judges whether anyone can still vouch for it."""

    def __init__(self, context: RoleContext, firsts: Firsts) -> None:
        self._context = context
        self._firsts = firsts
        self._database = Database(context.settings, context.metrics, application="notifyd-ws")
        self._told: set[str] = set()

    async def stop(self) -> None:
        """Close the pool."""
        await self._database.stop()

    async def read(self, user: str, ranges: Ranges, limit: int) -> PastPage:
        """Read the first `limit` messages of these ranges; see `notifyd.push.past.Past`."""
        context = self._context
        firsts = await self._firsts(list(ranges))
        # What the topic has let go of, the tables may have as well, row by row.
        is_lost = any(firsts.get(partition, 0) > start for partition, (start, _) in ranges.items())
        if is_lost:
            return PastPage({}, [], is_lost=True)
        try:
            stored = await read_past(
                self._database, context.incarnation, context.topics.messages, user, ranges, limit
            )
        except ContentKeyError as error:
            # Nobody else's replay waits until a person has added the key.
            self._tell(error)
            return PastPage({}, [], is_lost=True)
        messages = []
        for partition, offset, at_ms, raw in stored.rows:
            try:
                # Its limits of time were judged when it came.
                message = decode(raw, timestamp_ms=at_ms, limits=context.limits, is_exempt=True)
            except InvalidMessage as error:
                context.metrics.invalid.labels("ws", error.reason).inc()
            else:
                messages.append(PastMessage(message, partition, offset))
        through = stored.rows[-1][:2] if len(stored.rows) == limit else None
        return PastPage(stored.marks, await self._judge(user, messages), through)

    async def _judge(self, user: str, messages: list[PastMessage]) -> list[PastMessage]:
        """Say of each message by which newer one it was replaced, as the inbox shows it."""
        keys: dict[str, str] = {}
        for one in messages:
            key = collapse_key_of(one.message)
            if key is not None:
                keys[one.message.id] = key_of(*key)
        if not keys:
            return messages
        newest = await read_newest(self._database, user, sorted(set(keys.values())), "ws")
        return [
            replace(one, replaced_by=newer)
            if (newer := newest.get(keys.get(one.message.id, ""))) not in {None, one.message.id}
            else one
            for one in messages
        ]

    def _tell(self, error: ContentKeyError) -> None:
        if error.key_id not in self._told:  # once a process, however many come back
            self._told.add(error.key_id)
            _log.error("content_sealed", key_id=error.key_id, reason=error.reason, error=str(error))
