"""What we say of a contact on its topic: that some of its addresses are gone for good.

Contacts are the backend's to write, and the last record of a key counts: to write one without the address
could undo what the backend wrote a moment before. So we write a record of another key, beside the contact and
in its partition, that names the offset of the contact it is about. It means nothing to another one: a contact
that is written anew has all its addresses again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec
from aiokafka.partitioner import DefaultPartitioner

from notifyd.stream.records import OutRecord

#: No user id has a NUL.
_SUFFIX: Final = b"\0gone"


class Gone(msgspec.Struct, frozen=True):
    """`addresses` (digests) of the contact at `offset` are gone."""

    offset: int
    addresses: tuple[str, ...]


_decoder = msgspec.json.Decoder(Gone)


def gone_record(topic: str, user: str, partition: int, offset: int, addresses: Collection[str]) -> OutRecord:
    """Build the record that says so; it takes the place of the one before."""
    value = msgspec.json.encode(Gone(offset, tuple(sorted(addresses))))
    return OutRecord(topic, value, key=user.encode() + _SUFFIX, partition=partition)


def removal_records(topic: str, user: str, partitions: Collection[int]) -> list[OutRecord]:
    """Build the tombstones of a contact and of what we said of it."""
    key, numbers = user.encode(), sorted(partitions)
    partition = DefaultPartitioner()(key, numbers, numbers)
    return [
        OutRecord(topic, None, key=key),
        OutRecord(topic, None, key=key + _SUFFIX, partition=partition),
    ]


def user_of_mark(key: bytes) -> bytes | None:
    """Return the user that a record of this key says something of; None for a contact's own."""
    return key.removesuffix(_SUFFIX) if key.endswith(_SUFFIX) else None


def read_gone(value: Any) -> Gone | None:
    """Read such a record; None for a tombstone, and for what nobody understands."""
    try:
        return _decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
