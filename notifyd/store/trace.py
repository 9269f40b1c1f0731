"""The life of one message, read in one snapshot: who, what, every stage with time, pod and reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from notifyd.delivery.event import INBOX_STAGES, Event
from notifyd.delivery.state import DeliveryState, is_final, merge
from notifyd.message.ids import is_time_ordered, time_of
from notifyd.store.events import EventFacts, decode
from notifyd.store.life import UNKNOWN, DeliveryLife, MessageLife, Moment
from notifyd.store.pool import Database, Row
from notifyd.store.sql import query

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_Delivery = tuple[
    str, str, str, int, dt.datetime | None, dt.datetime | None, str | None, str | None, bool
]  # as read_life.sql has them
_Event = tuple[str, str, str, dt.datetime, str, int, str | None, str | None, dt.datetime | None]
_deliveries_decoder: Final = msgspec.json.Decoder(list[_Delivery])
_events_decoder: Final = msgspec.json.Decoder(list[_Event])


async def read_trace(database: Database, message_id: str) -> dict[str, Any] | None:
    """Read the life of a message in the form of DESIGN 18; None for an id that nobody has seen.

    `message_id` is a UUID in any case. Raises `TransientError` while the database is away, and
    `ContentKeyError` where the message cannot be opened.
    """
    life = await read_life(database, message_id)
    return None if life is None else life.as_json()


async def read_life(database: Database, message_id: str, *, user: str | None = None) -> MessageLife | None:
    """Read the life of a message; None for an id that nobody has seen.

    With `user` what is this recipient's alone, and None where it is none.
    """
    message_id = message_id.lower()
    found: list[Row] = []
    # Twice: had it just been stored, what was kept for it went to its rows between the statements.
    for _ in range(2):
        day = await _day_of(database, message_id)
        key = {"id": message_id, "day": day, "user": user}
        found = await database.fetch(query("read_life"), key) if day is not None else []
        if found or user is not None:
            break
        early = await database.fetch(query("read_early_events"), {"id": message_id})
        if early:
            return _early_life(message_id, decode([event for (event,) in early]))
    if not found:
        return None
    [
        (
            state,
            partition,
            offset,
            raw,
            accepted_at,
            persisted_at,
            pod,
            due_at,
            released_at,
            expires_at,
            *more,
        )
    ] = found
    envelope = _envelope(database.content.open(message_id, bytes(raw)))
    if user is not None and user not in (envelope or {}).get("toUserIds", ()):
        return None
    deliveries = _deliveries_decoder.decode(more[0] or "[]")
    events = _events_decoder.decode(more[1] or "[]")
    moments_of: dict[tuple[str, str], list[Moment]] = {(row[0], row[1]): [] for row in deliveries}
    own = [Moment("accepted", accepted_at), Moment("persisted", persisted_at, pod, due_at=due_at)]
    if released_at is not None:
        own.append(Moment("released", released_at))
    for recipient, channel, *rest in events:
        # `read` of a message that had no ws delivery belongs to none of them.
        moments_of.get((recipient, channel), own).append(_moment(rest))
    return MessageLife(
        message_id,
        state,
        envelope,
        f"{partition}:{offset}",
        tuple(
            DeliveryLife(
                recipient, channel, its_state, attempts, is_over, check_at, due, reason, detail, moments
            )
            for recipient, channel, its_state, attempts, check_at, due, reason, detail, is_over in deliveries
            for moments in [tuple(moments_of[recipient, channel])]
        ),
        tuple(own),
        expires_at,
    )


def visible_envelope(raw: bytes) -> dict[str, Any]:
    """Decode an envelope as people may see it: without `content.contacts`, which holds secrets."""
    envelope: dict[str, Any] = msgspec.json.decode(raw)
    content = envelope.get("content")
    if isinstance(content, dict):
        content.pop("contacts", None)
    return envelope


def _envelope(raw: bytes) -> dict[str, Any] | None:
    return visible_envelope(raw) if raw else None  # empty: all whom it was for were forgotten


def _early_life(message_id: str, facts: Sequence[EventFacts]) -> MessageLife:
    """Tell what events say of a message that is not stored: the deliveries that they are about."""
    own: list[Moment] = []
    moments_of: dict[tuple[str, str], list[Moment]] = {}
    states: dict[tuple[str, str], DeliveryState | None] = {}
    for fact in facts:
        due_at = None if fact.due is None else _at(fact.due)
        moment = Moment(fact.s, _at(fact.a), fact.p, fact.n, fact.re, fact.de, due_at)
        if fact.s in INBOX_STAGES:
            own.append(moment)
            continue
        key = fact.u, fact.c
        moments_of.setdefault(key, []).append(moment)
        states[key] = merge(states.get(key), _event(fact))
    deliveries = []
    for (user, channel), moments in sorted(moments_of.items()):
        state = states[user, channel]
        if state is None:  # stages of a later release alone
            life = DeliveryLife(user, channel, "pending", 0, False, None, None, None, None, tuple(moments))
        else:
            due_at = None if state.due_ms is None else _at(state.due_ms)
            is_over = is_final(channel, state.stage, state.detail)
            life = DeliveryLife(
                user, channel, state.stage, state.attempts, is_over, None, due_at, state.reason, state.detail,
                tuple(moments),
            )  # fmt: skip
        deliveries.append(life)
    return MessageLife(message_id, UNKNOWN, None, None, tuple(deliveries), tuple(own))


def _event(fact: EventFacts) -> Event:
    return Event(
        id=fact.i, day=fact.d, digest=fact.g, user=fact.u, channel=fact.c, stage=fact.s, at=fact.a,
        pod=fact.p, run=fact.r, attempt=fact.n, due=fact.due, reason=fact.re, detail=fact.de,
    )  # fmt: skip


async def _day_of(database: Database, message_id: str) -> str | None:
    if is_time_ordered(message_id):
        try:
            return (_EPOCH + dt.timedelta(milliseconds=time_of(message_id))).date().isoformat()
        except OverflowError:
            return None
    days: dict[str, str] = dict(await database.fetch(query("resolve_days"), {"ids": [message_id]}))
    return days.get(message_id)


def _moment(row: Any) -> Moment:
    stage, at, pod, attempt, reason, detail, due_at = row
    return Moment(stage, at, pod, attempt, reason, detail, due_at)


def _at(ms: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(milliseconds=ms)
