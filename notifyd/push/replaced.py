"""Which of a user's messages a newer one of the same sender and `collapseKey` has replaced. Pure.

The newest is, as in the inbox (`store/collapse.py`), the one that came last, by the time of its record and
then by its id. Where that is in doubt a message counts as not replaced: one too many does no harm.
"""

from __future__ import annotations

import sys
from typing import Final

from notifyd.errors import InvalidMessage
from notifyd.message.envelope import Message
from notifyd.message.ids import time_of
from notifyd.push.window import Entry, Window

#: What most messages lack, and so are read no further.
_MARK: Final = b'"collapseKey"'


class Newest:
    """The newest message of each key that a user has in the window, so what replaced each other one."""

    __slots__ = ("_by_key", "_first_ms", "_number", "_user", "_window")

    def __init__(self, window: Window, user: str) -> None:
        self._window = window
        self._user = user
        self._number = 0
        self._by_key: dict[tuple[str, str], Entry] = {}
        #: When each message with a key came, by its id; what came twice is no newer for that.
        self._first_ms: dict[str, int] = {}

    def after(self, message: Message) -> Entry | None:
        """Return the newest that has replaced this one, None where none has."""
        key = key_of(message)
        if key is None:
            return None
        self._look_on()
        newest = self._by_key.get(key)
        if newest is None or newest.message.id == message.id or _was_made_before(newest.message, message):
            return None
        came_ms = self._first_ms.get(message.id, message.timestamp_ms)
        is_newer = (newest.message.timestamp_ms, newest.message.id) > (came_ms, message.id)
        return newest if is_newer else None

    def _look_on(self) -> None:
        """Take in what has come since."""
        for entry in self._window.read(self._user, self._number, sys.maxsize):
            self._number = entry.number + 1
            message = entry.message
            key = key_of(message)
            if key is None or message.id in self._first_ms:
                continue
            self._first_ms[message.id] = message.timestamp_ms
            newest = self._by_key.get(key)
            if newest is None or _order(entry) > _order(newest):
                self._by_key[key] = entry


def key_of(message: Message) -> tuple[str, str] | None:
    """Return sender and `collapseKey` of a message that may replace others in the inbox, else None."""
    if _MARK not in message.raw:
        return None
    try:
        content = message.content
    except InvalidMessage:
        return None
    if content.collapse_key is None or "ws" not in content.channels:
        return None
    if content.not_before_ms is not None and content.not_before_ms > message.timestamp_ms:
        return None  # not out yet; the record that releases it is younger
    return message.sender, content.collapse_key


def _order(entry: Entry) -> tuple[int, str]:
    return entry.message.timestamp_ms, entry.message.id


def _was_made_before(one: Message, other: Message) -> bool:
    # The window may not know that it saw the repeat of a message that came long before: such a one was also
    # made before, and must not keep its user from what replaced it meanwhile.
    if one.is_time_ordered and other.is_time_ordered:
        return one.id < other.id
    return _made_ms(one) < _made_ms(other)


def _made_ms(message: Message) -> int:
    return time_of(message.id) if message.is_time_ordered else message.created_at_ms
