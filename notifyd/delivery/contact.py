"""Contacts: where a user can be reached, and what they muted. Pure.

They come by user id in the contacts topic, and in `content.contacts` of a message. Nobody but the
`deliver` role may see them: their reprs are blank, so that no log line and no traceback shows an
address or a secret.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from notifyd.errors import InvalidMessage

#: Addresses of one kind per user at most: one message must not become a flood.
MAX_ADDRESSES: Final = 10

_TIME_OF_DAY = re.compile(r"\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?")
_DAY_S = 86400

_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
_Addresses = Annotated[tuple[_Address, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]


class _Blank(msgspec.Struct, frozen=True):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class WebhookAddress(_Blank, frozen=True):
    """One URL to call. `secret` signs: `whsec_` and base64, or several while they are rotated."""

    url: _Address
    secret: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=3)] | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets that are valid now; empty: the calls are not signed."""
        if self.secret is None:
            return ()
        return (self.secret,) if isinstance(self.secret, str) else self.secret


class PushKeys(_Blank, frozen=True):
    """Keys of a browser's push subscription, base64url (RFC 8291)."""

    p256dh: str
    auth: str


class PushSubscription(_Blank, frozen=True):
    """What a browser's `PushManager.subscribe` returned."""

    endpoint: _Address
    keys: PushKeys


class Mute(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What not to send, and when. A part that is absent stands for "any".

    `from` and `until` are both RFC 3339 times (`2026-11-23T22:00:00Z`; one may be absent), or
    both times of day (`22:00+08:00`, UTC without an offset) that hold each day, over midnight
    too. `until` is the first moment that is not muted.
    """

    type: str | None = None
    channel: str | None = None
    from_: str | None = None
    until: str | None = None


class Contact(_Blank, frozen=True, rename="camel"):
    """Everything known about how to reach one user; all parts are optional."""

    user_id: str | None = None
    webhook: Annotated[tuple[WebhookAddress, ...], msgspec.Meta(max_length=MAX_ADDRESSES)] = ()
    email: _Addresses = ()
    webpush: Annotated[tuple[PushSubscription, ...], msgspec.Meta(max_length=MAX_ADDRESSES)] = ()
    apprise: _Addresses = ()
    mute: Annotated[tuple[Mute, ...], msgspec.Meta(max_length=100)] = ()


#: The contact of a user of whom nothing is known: every channel answers `no_address`.
NO_CONTACT: Final = Contact()

_decoder = msgspec.json.Decoder(Contact)


def contact_for(contacts: Mapping[str, msgspec.Raw] | None, user: str) -> Contact | None:
    """Find and check the contact of `user` in `content.contacts`; None where there is none.

    Raises `InvalidMessage` (reason `bad_content`) that names the field, as
    `content.contacts.alice.webhook[0].url`. Unknown fields are left alone.
    """
    raw = None if contacts is None else contacts.get(user)
    return None if raw is None else read_contact(raw, user, where=f"content.contacts.{user}")


def read_contact(raw: bytes | msgspec.Raw, user: str, *, where: str, reason: str = "bad_content") -> Contact:
    """Read and check the contact of `user`; a fault is an `InvalidMessage` of a field below `where`."""
    try:
        contact = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _fault(where, str(error), reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidMessage(where, "is not valid JSON", reason=reason) from None
    if contact.user_id not in (None, user):
        raise InvalidMessage(f"{where}.userId", "names another user", reason=reason)
    for index, rule in enumerate(contact.mute):
        _check_mute(f"{where}.mute[{index}]", rule, reason)
    return contact


def merge(kept: Contact, told: Contact) -> Contact:
    """Return what holds for one message: an address that it brings along stands for all of its kind that
    are `kept`, and what its user muted is muted either way.
    """
    return Contact(
        webhook=told.webhook or kept.webhook,
        email=told.email or kept.email,
        webpush=told.webpush or kept.webpush,
        apprise=told.apprise or kept.apprise,
        mute=kept.mute + told.mute,
    )


def digest_of(address: str) -> str:
    """Name an address without telling it: 16 hexadecimal digits of its BLAKE2s."""
    return hashlib.blake2s(address.encode(), digest_size=8).hexdigest()


def addresses_on(contact: Contact, channel: str) -> tuple[str, ...]:
    """Return the addresses of a channel whose other side can say that one is gone for good; else nothing."""
    if channel == "webhook":
        return tuple(one.url for one in contact.webhook)
    return tuple(one.endpoint for one in contact.webpush) if channel == "webpush" else ()


def without(contact: Contact, gone: Collection[str]) -> Contact:
    """Leave out the addresses with these digests."""
    if not gone:
        return contact
    return msgspec.structs.replace(
        contact,
        webhook=tuple(one for one in contact.webhook if digest_of(one.url) not in gone),
        webpush=tuple(one for one in contact.webpush if digest_of(one.endpoint) not in gone),
    )


def find_contact_faults(value: bytes) -> list[InvalidMessage]:
    """Find what is wrong with the `content.contacts` of an envelope, one fault a user.

    Only `deliver` reads them, so `decode` leaves them raw. Nothing of an envelope that cannot be read.
    """
    raw_fields = dict[str, msgspec.Raw]
    try:
        content = msgspec.json.decode(value, type=raw_fields)["content"]
        contacts = msgspec.json.decode(
            msgspec.json.decode(content, type=raw_fields)["contacts"], type=raw_fields | None
        )
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []  # told of elsewhere, or there are none
    faults = []
    for user in contacts or ():
        try:
            contact_for(contacts, user)
        except InvalidMessage as error:
            faults.append(error)
    return faults


def is_muted(contact: Contact, *, type: str | None, channel: str, at_ms: int, critical: bool = False) -> bool:
    """Say whether a rule of `contact` mutes a message of `type` on `channel` at `at_ms` (Unix, ms).

    `critical` overrides every rule. Expects a contact that `contact_for` has checked.
    """
    if critical or not contact.mute:
        return False
    return any(
        rule.type in (None, type) and rule.channel in (None, channel) and _is_within(rule, at_ms / 1000)
        for rule in contact.mute
    )


def _is_within(rule: Mute, at_s: float) -> bool:
    if rule.from_ is not None and rule.until is not None and _is_time_of_day(rule.from_):
        start, end = _second_of_day(rule.from_), _second_of_day(rule.until)
        now = at_s % _DAY_S
        return start <= now < end if start < end else now >= start or now < end
    if rule.from_ is not None and at_s < _moment(rule.from_):
        return False
    return rule.until is None or at_s < _moment(rule.until)


def _is_time_of_day(text: str) -> bool:
    return _TIME_OF_DAY.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _second_of_day(text: str) -> float:
    time = dt.time.fromisoformat(text)
    offset = time.utcoffset() or dt.timedelta()
    return (time.hour * 3600 + time.minute * 60 + time.second - offset.total_seconds()) % _DAY_S


@lru_cache(maxsize=4096)
def _moment(text: str) -> float:
    moment = dt.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _check_mute(where: str, rule: Mute, reason: str) -> None:
    ends = {"from": rule.from_, "until": rule.until}
    daily = {name: text is not None and _is_time_of_day(text) for name, text in ends.items()}
    if any(daily.values()) and not all(daily.values()):
        raise InvalidMessage(where, "`from` and `until` must both be times of day", reason=reason)
    for name, text in ends.items():
        try:
            if text is not None:
                (_second_of_day if daily[name] else _moment)(text)
        except (ValueError, OverflowError):
            raise InvalidMessage(
                f"{where}.{name}", "is neither an RFC 3339 time nor a time of day", reason=reason
            ) from None


def _fault(where: str, text: str, reason: str) -> InvalidMessage:
    """Turn msgspec's "<rule> - at `$.path`" into our field and rule."""
    rule, _, path = text.partition(" - at `$")
    field = where + path.rstrip("`")
    missing = re.fullmatch(r"Object missing required field `(.+)`", rule)
    if missing:
        return InvalidMessage(f"{field}.{missing[1]}", "is missing", reason=reason)
    return InvalidMessage(field, rule[:1].lower() + rule[1:], reason=reason)
