"""Looks one contact up on the topic itself; for who keeps no copy of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

from aiokafka.partitioner import DefaultPartitioner

from notifyd.delivery.contact import digest_of
from notifyd.settings import Settings
from notifyd.stream.contact_marks import read_gone, user_of_mark
from notifyd.stream.reading import partitions_of, read_to_end, reader
from notifyd.stream.topics import Topics

#: Stands for what signs or decrypts.
HIDDEN: Final = "(not shown)"
_SECRETS: Final = frozenset({"secret", "auth", "p256dh"})
_TELL_EVERY: Final = 100_000


async def find_contact(
    settings: Settings, user: str, *, tell: Callable[[int], None] | None = None
) -> tuple[bytes, frozenset[str]] | None:
    """Read the user's partition from its start; return the contact and the digests of what is gone of it.

    `tell` hears of the records read so far. Raises as `reader`.
    """
    topic, key = Topics.of(settings).contacts, user.encode()
    found: Any = None
    gone: Any = None
    async with reader(settings) as consumer:
        partitions = await partitions_of(consumer, topic)
        mine = DefaultPartitioner()(key, partitions, partitions)
        async with aclosing(read_to_end(consumer, topic, [mine])) as records:
            count = 0
            async for record in records:
                count += 1
                if record.key == key:
                    found = record
                elif user_of_mark(record.key or b"") == key:
                    gone = read_gone(record.value)
                if tell is not None and count % _TELL_EVERY == 0:
                    tell(count)
    if found is None or not found.value:
        return None
    is_marked = gone is not None and gone.offset == found.offset
    return found.value, frozenset(gone.addresses if is_marked else ())


def show_contact(value: bytes, gone: frozenset[str], *, secrets: bool = False) -> Any:
    """Return a contact as it is shown: what is gone is marked, what signs is hidden without `secrets`."""
    try:
        contact = json.loads(value)
    except ValueError:
        return {"unreadable": value.decode(errors="replace") if secrets else HIDDEN}
    if isinstance(contact, dict):
        for kind, name in (("webhook", "url"), ("webpush", "endpoint")):
            for one in contact.get(kind) or ():
                if isinstance(one, dict) and digest_of(str(one.get(name))) in gone:
                    one["gone"] = True
    return contact if secrets else _hide(contact)


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if name in _SECRETS else _hide(part) for name, part in value.items()}
    return [_hide(part) for part in value] if isinstance(value, list) else value
