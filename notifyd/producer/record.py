"""The Kafka record of a message: its bytes as they are, its key, and headers for who reads only those."""

from __future__ import annotations

import re
from typing import Final

from notifyd.message.envelope import Message
from notifyd.stream.records import OutRecord

#: `ce_type` of a message whose content names no type; CloudEvents 1.0 demands one.
DEFAULT_TYPE: Final = "notifyd.message"

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def record_of(
    message: Message, topic: str, *, key: bytes | None = None, traceparent: str | None = None
) -> OutRecord:
    """Make the record of a message. `key` decides the partition, by default the message's id.

    Its headers are CloudEvents 1.0 in Kafka's binary mode, and the trace context as it came; a broken
    one is left out: tracing must never cost a message.
    """
    headers = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", message.id.encode()),
        ("ce_type", (message.content.type or DEFAULT_TYPE).encode()),
        ("ce_source", message.sender.encode()),
    ]
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        headers.append(("traceparent", traceparent.encode()))
    return OutRecord(topic, message.raw, message.id.encode() if key is None else key, tuple(headers))
