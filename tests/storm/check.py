"""What was promised against what happened: every loss by name, and the shares of repeats. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: A device may miss what was produced this shortly before or after it had a connection.
_EDGE_MS = 2000


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the broker confirmed: the promise begins here. Times in ms since 1970."""

    id: str
    users: tuple[str, ...]
    channels: tuple[str, ...]
    handed_ms: int = 0
    confirmed_ms: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that was promised and is not so. `kind` names it; `user`, `channel` where they matter."""

    kind: str
    id: str
    user: str = ""
    channel: str = ""
    detail: str = ""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.user, self.channel, self.detail) if part)
        return f"{self.kind}: {self.id}{' ' + where if where else ''}"


@dataclass
class Facts:
    """All that the parties wrote down, and what the database holds.

    `unsure`: ids that were sent and not confirmed; they may be there or not. `good_calls` counts the
    webhook calls answered with 200 by (id, user), `failed_calls` the others. `receipts` are the messages
    that devices got, `acks` those whose ack the server confirmed, by (id, user); `connected` the times (ms)
    from and to which a user had a connection.
    """

    sent: Mapping[str, Sent]
    unsure: set[str] = field(default_factory=set)
    rows: Sequence[tuple[str, str]] = ()  # id, state
    inbox: Sequence[tuple[str, str]] = ()  # id, user
    deliveries: Sequence[tuple[str, str, str, str]] = ()  # id, user, channel, state
    good_calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed_calls: int = 0
    sent_events: int = 0
    receipts: set[tuple[str, str]] = field(default_factory=set)
    acks: set[tuple[str, str]] = field(default_factory=set)
    connected: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    wrong_counters: int = 0
    early_events: int = 0
    errors: int = 0
    on_failed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`figures` are counts and shares by name; `missed_pushes` is what devices that came back never got."""

    losses: tuple[Loss, ...]
    figures: Mapping[str, float]
    missed_pushes: tuple[Loss, ...] = ()


def check(facts: Facts, *, judges_push: bool = False) -> Verdict:
    """Compare; the order of losses is that of their kinds, then of the messages.

    With `judges_push` a push that a device missed, and that was there at the end, is a loss too.
    """
    missed = tuple(_pushes(facts))
    losses = [
        *_rows(facts),
        *_inbox(facts),
        *_deliveries(facts),
        *_webhooks(facts),
        *_acks(facts),
        *(missed if judges_push else ()),
    ]
    if facts.wrong_counters:
        losses.append(Loss("wrong_unread_counter", "-", detail=f"of {facts.wrong_counters} users"))
    if facts.early_events:
        losses.append(Loss("event_never_joined", "-", detail=f"{facts.early_events} events"))
    if facts.errors != facts.on_failed:
        losses.append(
            Loss("callback_missing", "-", detail=f"{facts.errors} errors, {facts.on_failed} callbacks")
        )
    return Verdict(tuple(losses), _figures(facts), missed)


def _rows(facts: Facts) -> Iterable[Loss]:
    seen = Counter(message_id for message_id, _ in facts.rows)
    for message_id, sent in facts.sent.items():
        number = seen[message_id]
        if number == 0:
            yield Loss("message_lost", message_id, detail=f"at {sent.place}")
        elif number > 1:
            yield Loss("message_doubled", message_id, detail=f"{number} rows")
    for message_id in seen.keys() - facts.sent.keys() - facts.unsure:
        yield Loss("message_unknown", message_id)
    for message_id, state in facts.rows:
        sent_ = facts.sent.get(message_id)
        # Until the sweep exists, a push to somebody absent stays pending.
        if sent_ is not None and "ws" not in sent_.channels and state != "done":
            yield Loss("message_not_final", message_id, detail=state)


def _inbox(facts: Facts) -> Iterable[Loss]:
    seen = Counter(facts.inbox)
    for sent in facts.sent.values():
        for user in sent.users:
            number = seen.pop((sent.id, user), 0)
            if number == 0:
                yield Loss("inbox_lost", sent.id, user)
            elif number > 1:
                yield Loss("inbox_doubled", sent.id, user, detail=f"{number} rows")
    for message_id, user in seen:
        if message_id not in facts.unsure:
            yield Loss("inbox_unknown", message_id, user)


def _deliveries(facts: Facts) -> Iterable[Loss]:
    seen = Counter((message_id, user, channel) for message_id, user, channel, _ in facts.deliveries)
    states = {(message_id, user, channel): state for message_id, user, channel, state in facts.deliveries}
    for sent in facts.sent.values():
        for user in sent.users:
            for channel in sent.channels:
                key = (sent.id, user, channel)
                if key not in states:
                    yield Loss("delivery_lost", *key)
                elif seen[key] > 1:
                    yield Loss("delivery_doubled", *key, detail=f"{seen[key]} rows")
                elif channel == "webhook" and states[key] != "sent":
                    yield Loss("delivery_not_final", *key, detail=states[key])


def _webhooks(facts: Facts) -> Iterable[Loss]:
    for sent in facts.sent.values():
        if "webhook" in sent.channels:
            for user in sent.users:
                if not facts.good_calls[sent.id, user]:
                    yield Loss("webhook_lost", sent.id, user, "webhook")


def _acks(facts: Facts) -> Iterable[Loss]:
    states = {
        (message_id, user): state for message_id, user, channel, state in facts.deliveries if channel == "ws"
    }
    for key in sorted(facts.acks):
        if states.get(key) != "acked":
            yield Loss("ack_lost", *key, "ws", states.get(key, "no row"))


def _pushes(facts: Facts) -> Iterable[Loss]:
    """What addressed a device after its first connection and before its last, and never came."""
    for sent in facts.sent.values():
        if "ws" in sent.channels:
            for user in sent.users:
                times = facts.connected.get(user)
                if not times or (sent.id, user) in facts.receipts:
                    continue
                if times[0][0] + _EDGE_MS <= sent.handed_ms and sent.confirmed_ms + _EDGE_MS <= times[-1][1]:
                    yield Loss("push_missed", sent.id, user, "ws", f"at {sent.place}")


def _figures(facts: Facts) -> dict[str, float]:
    calls, pairs = facts.good_calls.total(), len(facts.good_calls)
    # A record that is not acknowledged holds back what a partition commits: see where repeats come from.
    calls_in: Counter[str] = Counter()
    pairs_in: Counter[str] = Counter()
    for (message_id, _), number in facts.good_calls.items():
        if message_id in facts.sent:
            partition = facts.sent[message_id].place.partition(":")[0]
            calls_in[partition] += number
            pairs_in[partition] += 1
    shares = [_share(number - pairs_in[one], number) for one, number in calls_in.items()] or [0.0]
    addressed = [
        (sent, user)
        for sent in facts.sent.values()
        if "ws" in sent.channels
        for user in sent.users
        if user in facts.connected
    ]
    got = sum(1 for sent, user in addressed if (sent.id, user) in facts.receipts)
    live = [(sent, user) for sent, user in addressed if _was_there(facts.connected[user], sent)]
    live_got = sum(1 for sent, user in live if (sent.id, user) in facts.receipts)
    states = Counter(state for _, _, channel, state in facts.deliveries if channel == "ws")
    return {
        "confirmed": len(facts.sent),
        "unsure": len(facts.unsure),
        "on_failed_calls": facts.on_failed,
        "messages": len(facts.rows),
        "inbox_rows": len(facts.inbox),
        "deliveries": len(facts.deliveries),
        "webhooks": pairs,
        "webhook_calls": calls,
        "webhook_repeats": calls - pairs,
        "webhook_repeat_share": _share(calls - pairs, calls),
        "webhook_repeat_share_of_median_partition": statistics.median(shares),
        "webhook_repeat_share_of_worst_partition": max(shares),
        "webhook_failures_played": facts.failed_calls,
        "redelivered_events": facts.sent_events - pairs,
        "ws_addressed": len(addressed),
        "ws_received": got,
        "ws_coverage": _share(got, len(addressed)),
        "ws_addressed_while_connected": len(live),
        "ws_coverage_while_connected": _share(live_got, len(live)),
        "ws_acks_confirmed": len(facts.acks),
        "ws_acked_rows": states["acked"],
    }


def _was_there(times: Sequence[tuple[int, int]], sent: Sent) -> bool:
    return any(
        since <= sent.handed_ms - _EDGE_MS and sent.confirmed_ms + _EDGE_MS <= until for since, until in times
    )


def _share(part: float, whole: float) -> float:
    return round(part / whole, 5) if whole else 0.0
