"""What a record asks of `deliver`: which message, for whom, by which channel, as which attempt."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from notifyd.delivery.event import FIRST_RUN
from notifyd.errors import InvalidMessage
from notifyd.message.envelope import Limits, Message, decode
from notifyd.stream.batch import Record
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.resend import read_resend
from notifyd.stream.retry import RetryOrder, read_order

#: A retry that comes twice within this many others is recognised.
_SEEN_RETRIES: Final = 50_000


class Job(msgspec.Struct, frozen=True):
    """One record to work on. `pairs` are (user, channel); none: there is nothing to do for it here.

    `first_at_ms` is the timestamp of the message's own record, `order` that of a retry record.
    """

    record: Record
    message: Message
    pairs: tuple[tuple[str, str], ...]
    attempt: int
    run: str
    first_at_ms: int
    order: RetryOrder | None = None

    @property
    def deferrals(self) -> int:
        """How often this attempt was put off so far."""
        return self.order.deferrals if self.order is not None else 0


def read_message_job(record: Record, limits: Limits) -> Job:
    """Read a record of the input topic; raises `InvalidMessage`.

    A message for later is passed over: `persist` keeps it, and it comes again when it is due.
    """
    message = decode(record.value, timestamp_ms=record.timestamp, limits=limits)
    content = message.content
    is_for_later = content.not_before_ms is not None and content.not_before_ms > record.timestamp
    channels = () if is_for_later else tuple(name for name in content.channels if name != "ws")
    pairs = tuple((user, name) for name in channels for user in message.recipients)
    return Job(record, message, pairs, 1, FIRST_RUN, record.timestamp)


def read_resend_job(record: Record, limits: Limits) -> Job:
    """Read a record of the resend topic, one delivery; raises `InvalidMessage`.

    One for `ws` has nothing to do here.
    """
    order = read_resend(record)
    message = decode(record.value, timestamp_ms=order.first_at_ms, limits=limits, is_exempt=True)
    if order.user not in message.recipients:
        raise InvalidMessage(
            "headers", "name a user whom the message is not for", reason="bad_resend_headers"
        )
    pairs = ((order.user, order.channel),) if order.channel != "ws" else ()
    return Job(record, message, pairs, 1, order.run, order.first_at_ms)


class RetryJobs:
    """Reads retry records, and knows those under way and those settled: a second copy does nothing.

    What is under way counts for as long as its partition is ours: where it was cut short the
    record comes again, here or elsewhere, and is taken up again.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._under_way: dict[tuple[object, ...], PartitionFlow] = {}
        self._settled: OrderedDict[tuple[object, ...], None] = OrderedDict()

    def read(self, record: Record, flow: PartitionFlow) -> Job:
        """Read a retry record and take up what nobody else has; raises `InvalidMessage`."""
        order = read_order(record)
        message = decode(record.value, timestamp_ms=order.first_at_ms, limits=self._limits, is_exempt=True)
        users = [user for user in order.users if self._is_free(_key(message, user, order))]
        for user in users:
            self._under_way[_key(message, user, order)] = flow
        if len(self._under_way) > _SEEN_RETRIES:
            self._under_way = {key: one for key, one in self._under_way.items() if not one.is_closed}
        pairs = tuple((user, order.channel) for user in users)
        return Job(record, message, pairs, order.attempt, order.run, order.first_at_ms, order)

    def _is_free(self, key: tuple[object, ...]) -> bool:
        flow = self._under_way.get(key)
        return key not in self._settled and (flow is None or flow.is_closed)

    def settled(self, job: Job) -> None:
        """Note a job whose outcomes are durable."""
        if job.order is None:
            return
        for user, _ in job.pairs:
            self._settled[_key(job.message, user, job.order)] = None
        self.put_back(job)
        while len(self._settled) > _SEEN_RETRIES:
            self._settled.popitem(last=False)

    def put_back(self, job: Job) -> None:
        """Let go of a job that is to come again, or that was set aside."""
        if job.order is not None:
            for user, _ in job.pairs:
                self._under_way.pop(_key(job.message, user, job.order), None)


def _key(message: Message, user: str, order: RetryOrder) -> tuple[object, ...]:
    # Not with the due time: a record that was worked on twice, since its ack was lost, has put two
    # retries in the topic that differ in it. Each would go on as a chain of its own.
    return (message.id, user, order.channel, order.run, order.attempt, order.deferrals)
