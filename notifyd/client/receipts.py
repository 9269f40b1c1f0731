"""What a client has said of messages and the server has not confirmed yet. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

OPS: Final = ("ack", "seen", "read")
#: Kept at most; the oldest go first. Who is never confirmed gets the message again, no worse.
MAX_KEPT: Final = 50_000
#: Ids in one frame: 200 x 39 bytes, half of what the server takes.
MAX_IDS: Final = 200


class Receipts:
    """Kept until confirmed, however many connections that takes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._unsent: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, op: str, ids: Iterable[str]) -> None:
        """Keep these, to be sent with the next batch."""
        for message_id in ids:
            self._kept[op, message_id] = self._unsent[op, message_id] = None
        while len(self._kept) > MAX_KEPT:
            oldest, _ = self._kept.popitem(last=False)
            self._unsent.pop(oldest, None)

    def begin(self) -> None:
        """Begin a new connection: all that is not confirmed is to be sent again."""
        self._unsent = OrderedDict(self._kept)

    def take(self) -> list[dict[str, Any]]:
        """Return the frames that are due, and note them as sent."""
        by_op: dict[str, list[str]] = {}
        for op, message_id in self._unsent:
            by_op.setdefault(op, []).append(message_id)
        self._unsent.clear()
        return [
            {"op": op, "ids": ids[at : at + MAX_IDS]}
            for op, ids in by_op.items()
            for at in range(0, len(ids), MAX_IDS)
        ]

    def confirm(self, frame: dict[str, Any]) -> None:
        """Forget what an `ok` confirms or refuses: neither is to be sent again."""
        for op in OPS:
            if op not in frame:
                continue
            for message_id in [*frame[op], *frame.get("refused", ())]:
                self._kept.pop((op, message_id), None)
                self._unsent.pop((op, message_id), None)
