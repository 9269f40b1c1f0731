"""Resuming: what a client that comes back has, and what of the rest the window covers. Pure.

A place is what a client has got: per partition everything below an offset, 0 where it names none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from notifyd.push.cursor import decode_cursor, decode_place, encode_place
from notifyd.push.replaced import Newest


class Skip(Enum):
    """The client has it already."""

    SKIP = "skip"


SKIP: Final = Skip.SKIP


def read_place(cursor: str, at: Sequence[str], incarnation: str) -> dict[int, int] | None:
    """Return the place that a `hello` tells of; None for a cursor of another life of the topic.

    A client keeps `at` beside its last cursor, so the higher of the two counts. An `at` that says
    nothing is left out: at worst something comes twice.
    """
    decoded = decode_cursor(cursor)
    if decoded is None or decoded.incarnation != incarnation:
        return None
    place = dict(decoded.offsets)
    for text in at:
        found = decode_place(text)
        if found is not None and found[1] >= place.get(found[0], 0):
            place[found[0]] = found[1] + 1
    return place


class Resume:
    """A connection whose client was here before, until it has caught up in every partition.

    `place` what the client has. `holes`: partitions of which the window lacks [from, to) for it; while one
    is open, messages of that partition carry no `at`, and `pos` and `welcome` keep the old entry. `ahead`:
    partitions in which the client has more than this process, and is not sent it again. `number`
    the message of the window to go on with, `todo` what is left of the holes.
    """

    __slots__ = (
        "ahead",
        "give_up_at",
        "holes",
        "is_lost",
        "is_queued",
        "is_unproven",
        "is_welcomed",
        "newest",
        "number",
        "past_count",
        "place",
        "replayed",
        "todo",
        "waits",
    )

    def __init__(self, place: dict[int, int], give_up_at: float, *, is_lost: bool = False) -> None:
        self.place = place
        #: Where the client was says nothing: it gets all that is in the window, and reads its inbox.
        self.is_lost = is_lost
        #: Until then it may come out that the topic reaches to where the client says it was.
        self.give_up_at = give_up_at
        self.holes: dict[int, tuple[int, int]] = {}
        self.todo: dict[int, tuple[int, int]] = {}
        self.past_count = 0
        self.waits = 0
        self.ahead: dict[int, int] = {}
        self.number = 0
        #: What has replaced messages of this user; made when it is first asked.
        self.newest: Newest | None = None
        self.replayed = 0
        self.is_queued = False
        #: Nobody here knows yet whether the topic reaches to where the client says it was.
        self.is_unproven = True
        self.is_welcomed = False

    def judge(
        self, floors: Mapping[int, int], ends: Mapping[int, int], log_end: Callable[[int], int]
    ) -> bool:
        """Compare the place with the window; False while it lies beyond all that is known of the topic.

        `log_end` tells the offset after the last record of a partition, as far as this process knows.
        """
        ahead = {}
        for partition, offset in self.place.items():
            if offset > ends.get(partition, 0):
                if offset > log_end(partition):
                    return False
                ahead[partition] = offset
        self.ahead = ahead
        self.holes = {
            partition: (self.place.get(partition, 0), floor)
            for partition, floor in floors.items()
            if self.place.get(partition, 0) < floor
        }
        return True

    def at_of(self, partition: int, offset: int) -> str | Skip | None:
        """Return the `at` of a message for this client, `SKIP` if it has it.

        None in a hole's partition, and before the `welcome` that sends a client to its inbox: a place
        named earlier would be kept by a client that never gets to read there.
        """
        hole = self.holes.get(partition)
        if hole is not None:
            return SKIP if offset < hole[1] else None
        if offset < self.place.get(partition, 0):
            return SKIP
        if self.is_lost and not self.is_welcomed:
            return None
        return encode_place(partition, offset)

    def passed(self, partition: int, offset: int) -> None:
        """Note that a message was sent, and with it everything of its partition up to there."""
        if partition not in self.holes:
            self.place[partition] = offset + 1

    def vector(self, ends: Mapping[int, int]) -> dict[int, int]:
        """Return the place that a cursor for this client may claim, given how far this process is."""
        if not self.is_welcomed:
            return {} if self.is_lost else self.place
        vector = {**ends, **{p: max(offset, ends.get(p, 0)) for p, offset in self.ahead.items()}}
        vector.update((partition, self.place.get(partition, 0)) for partition in self.holes)
        return vector

    def is_over(self, ends: Mapping[int, int]) -> bool:
        """Whether there is nothing special about this connection any more."""
        return (
            self.is_welcomed
            and not self.holes
            and all(offset <= ends.get(partition, 0) for partition, offset in self.ahead.items())
        )
