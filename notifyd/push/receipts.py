"""Receipts: what clients say of messages (`ack`, `seen`, `read`), made durable, then confirmed.

All connections share one writer: what has come while a write was under way is the next write.
A write that fails for now is repeated, so that a client never has to guess; what it holds is
bounded, and whoever sends more is read no further until there is room.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from notifyd.delivery.event import Event, EventSink
from notifyd.delivery.signal import SignalSink
from notifyd.errors import TransientError
from notifyd.log import get_logger
from notifyd.message.envelope import Message
from notifyd.metrics import Metrics
from notifyd.push.peer import Acker, Frame, State
from notifyd.push.protocol import STAGE_OF, CloseCode, Mark, day_of_v7, encode_ok

#: Messages pushed lately whose day, digest and recipients are kept for their acks.
RECENT_MESSAGES: Final = 20_000
#: Recipients of all these, at most; about 60 MB where each is another user.
RECENT_RECIPIENTS: Final = 500_000
#: Of more recipients an ack finds its user in a set (0.1 us), not by a look at each (5 us of 1,000).
_FEW: Final = 16
#: Ids of one connection on their way; above, it is not read until half of them are confirmed.
MAX_UNCONFIRMED: Final = 2_000
#: The same over all connections: about 25 MB.
MAX_WAITING: Final = 100_000
#: Events of one write.
_BATCH_EVENTS: Final = 5_000
_RETRY_CAP_S: Final = 10.0

_log = get_logger(component="push")


class Known(msgspec.Struct, frozen=True, gc=False):
    """What an ack of a message needs of it, and where it stood: None for one read from the database."""

    day: str
    digest: str
    recipients: Collection[str]
    place: tuple[int, int] | None


class _Receipt(msgspec.Struct, frozen=True, eq=False):
    connection: Acker
    mark: Mark
    confirmed: list[str]
    refused: list[str]
    events: list[Event]


class Receipts:
    """Turns marks into events, writes them, and says `ok` to the client afterwards."""

    def __init__(
        self,
        events: EventSink,
        metrics: Metrics,
        *,
        pod: str,
        oldest_s: float,
        ahead_s: float,
        now: Callable[[], float],
        signals: SignalSink | None = None,
    ) -> None:
        self._sink = events
        self._signals = signals
        self._metrics = metrics
        self._pod = pod
        self._oldest = datetime.timedelta(seconds=oldest_s, days=1)
        self._ahead = datetime.timedelta(seconds=ahead_s, days=1)
        self._now = now
        #: By id. More than one where the id was taken for other bytes too, and who was first is open.
        self._recent: OrderedDict[str, tuple[Known, ...]] = OrderedDict()
        #: How many they have, all together.
        self._recipients = 0
        self._waiting: list[_Receipt] = []
        self._held: list[Acker] = []
        self._writer: asyncio.Task[None] | None = None
        #: Ids accepted from clients and not yet durable.
        self.pending = 0

    def remember(self, message: Message, place: tuple[int, int] | None) -> bool:
        """Keep what an ack of this message will need; False when its id is another message's for sure.

        `place` its partition and offset; None for one from the database, where `persist` has decided. Of
        two messages with one id the first is the right one. Within a partition all read in one order, so
        the later is refused here as there; of two partitions nobody but `persist` knows, and to
        push a wrong one as well is better than to keep the right one from its user.
        """
        before = known = self._recent.get(message.id, ())
        if known:
            if any(one.digest == message.digest for one in known):
                return True
            if place is None:
                known = ()
            elif any(_is_before(one, place) for one in known):
                return False
            else:
                known = tuple(one for one in known if one.place is None or one.place[0] != place[0])
        users: Collection[str] = message.recipients
        if len(users) > _FEW:
            users = frozenset(users)
        fresh = Known(message.day.isoformat(), message.digest, users, place)
        self._recent[message.id] = (*known, fresh)
        self._recipients += len(users)
        if known is not before:
            self._recipients -= _count(before) - _count(known)
        while len(self._recent) > RECENT_MESSAGES or self._recipients > RECENT_RECIPIENTS:
            self._recipients -= _count(self._recent.popitem(last=False)[1])
        return True

    def take(self, connection: Acker, mark: Mark) -> None:
        """Take a client's mark; the answer is sent when it is durable."""
        confirmed: list[str] = []
        refused: list[str] = []
        events: list[Event] = []
        stage, at = STAGE_OF[mark.op], int(self._now() * 1000)
        for text in dict.fromkeys(mark.ids):
            known = self._find(connection.user, text)
            if known is None:
                refused.append(text)
                continue
            message_id, day, digest = known
            confirmed.append(text)
            events.append(
                Event(
                    id=message_id,
                    day=day,
                    digest=digest,
                    user=connection.user,
                    channel="ws",
                    stage=stage,
                    attempt=1,
                    at=at,
                    pod=self._pod,
                )
            )
        if refused:
            self._metrics.acks_refused.labels(reason="not_of_user").inc(len(refused))
        receipt = _Receipt(connection, mark, confirmed, refused, events)
        if not events:
            self._confirm(receipt)
            return
        self._waiting.append(receipt)
        self.pending += len(events)
        connection.unconfirmed += len(events)
        if connection.unconfirmed > MAX_UNCONFIRMED or self.pending > MAX_WAITING:
            connection.hold()
            self._held.append(connection)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="push receipts")

    def withdraw(self, connection: Acker) -> None:
        """Forget the marks of one that waits no longer, unless their write has begun."""
        kept = [receipt for receipt in self._waiting if receipt.connection is not connection]
        if len(kept) < len(self._waiting):
            self.pending -= sum(len(r.events) for r in self._waiting) - sum(len(r.events) for r in kept)
            self._waiting = kept

    async def stop(self, limit_s: float) -> None:
        """Let what waits be written for so long, then give up; unconfirmed acks come again elsewhere."""
        if self._writer is None:
            return
        done, _ = await asyncio.wait([self._writer], timeout=max(0.0, limit_s))
        if not done:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def _find(self, user: str, text: str) -> tuple[str, str, str] | None:
        """Return (id, day, digest) of a message that may be this user's, else None.

        A pod that no longer knows a message, or never saw it, cannot tell whose it is: the event
        then has no digest, and `persist`, which knows, lets it count for real deliveries only.
        """
        message_id = text.lower()
        known = self._recent.get(message_id)
        if known is not None:
            addressed = [(message_id, one.day, one.digest) for one in known if user in one.recipients]
            # Which of several the client has shown, its ack does not say.
            return (*addressed[0][:2], "") if len(addressed) > 1 else next(iter(addressed), None)
        day = _day_of_id(message_id)
        if day is None:
            return None
        today = day_of(self._now())
        if not today - self._oldest <= day <= today + self._ahead:
            return None
        return message_id, day.isoformat(), ""

    def _confirm(self, receipt: _Receipt) -> None:
        frame = Frame(encode_ok(receipt.mark.op, receipt.confirmed, receipt.refused))
        receipt.connection.send(frame)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                is_written = await self._write_batch([event for r in batch for event in r.events])
                for receipt in batch:
                    self._settle(receipt, is_written)
                if is_written:
                    self._metrics.acked.inc(sum(len(receipt.events) for receipt in batch))
                self._release()
        finally:
            self._writer = None

    def _next_batch(self) -> list[_Receipt]:
        size = count = 0
        for receipt in self._waiting:
            if count and size + len(receipt.events) > _BATCH_EVENTS:
                break
            size += len(receipt.events)
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _write_batch(self, events: list[Event]) -> bool:
        """Write until it is durable; False when no repetition can help."""
        failures = 0
        while True:
            try:
                await self._sink.write(events)
            except TransientError as error:
                if not failures:
                    _log.warning("acks_wait", reason=error.reason, error=error.message)
                failures += 1
                ceiling_s = min(_RETRY_CAP_S, 0.25 * 2 ** min(failures, 10))
                await asyncio.sleep(error.retry_after_s or random.uniform(0.1, 1) * ceiling_s)
            except Exception as error:  # the outer edge of this task: clients must not wait for ever
                _log.error("acks_lost", error=str(error), error_type=type(error).__name__, acks=len(events))
                return False
            else:
                if failures:
                    _log.info("acks_go_on", failures=failures)
                return True

    def _settle(self, receipt: _Receipt, is_written: bool) -> None:
        self.pending -= len(receipt.events)
        receipt.connection.unconfirmed -= len(receipt.events)
        if is_written:
            self._confirm(receipt)
            if self._signals is not None and receipt.mark.op != "ack":
                peer = receipt.connection
                self._signals.post(peer.user, receipt.mark.op, receipt.confirmed, peer.session)
        elif receipt.connection.state is State.OPEN:
            # The client keeps what was not confirmed and sends it again.
            receipt.connection.close(CloseCode.INTERNAL, "acks could not be stored")

    def _release(self) -> None:
        if not self._held or self.pending > MAX_WAITING // 2:
            return
        still = [c for c in self._held if c.unconfirmed > MAX_UNCONFIRMED // 2]
        for connection in self._held:
            if connection.unconfirmed <= MAX_UNCONFIRMED // 2:
                connection.release()
        self._held = still


def _count(known: Sequence[Known]) -> int:
    return sum(len(one.recipients) for one in known)


def _is_before(one: Known, place: tuple[int, int]) -> bool:
    return one.place is None or (one.place[0] == place[0] and one.place[1] < place[1])


def _day_of_id(message_id: str) -> datetime.date | None:
    """Return the day that an id in lower case carries, None where it is none or carries none."""
    try:
        parsed = uuid.UUID(message_id)
    except ValueError:
        return None
    return day_of_v7(parsed) if str(parsed) == message_id else None


def day_of(at_s: float) -> datetime.date:
    """Return the UTC day of a moment in seconds since 1970."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).date()
