"""The work that every server of the push benchmarks is given: the same messages to the same users.

User `u<number>` has one connection. A delivery of `Work(rounds, burst, fanout, count)` is this: in
each round every user gets `burst` messages in a row; a message is for `fanout` users. The servers
get the messages as a producer wrote them, and take them apart as their kind does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from notifyd.message.ids import new_id

#: Rest between two rounds: what was written has left, so that rounds are never joined.
REST_S = 0.05
SECRET = "only-for-benchmarks-only-for-benchmarks-only"


@dataclass(frozen=True, slots=True)
class Work:
    """What to deliver; as a command: `prepare ROUNDS BURST FANOUT COUNT`."""

    rounds: int
    burst: int
    fanout: int
    count: int

    @classmethod
    def parse(cls, words: list[str]) -> Work:
        """Read the numbers of a command."""
        return cls(*map(int, words))

    @property
    def deliveries(self) -> int:
        """Messages that reach a client, all together."""
        return self.rounds * self.burst * self.count

    @property
    def command(self) -> str:
        """The command that tells a server."""
        return f"prepare {self.rounds} {self.burst} {self.fanout} {self.count}"

    def values(self) -> list[list[list[bytes]]]:
        """Make the envelopes: rounds of groups of bursts."""
        return [
            [
                [
                    envelope(round_ * self.burst + number, range(first, min(first + self.fanout, self.count)))
                    for number in range(self.burst)
                ]
                for first in range(0, self.count, self.fanout)
            ]
            for round_ in range(self.rounds)
        ]


def user_name(number: int) -> str:
    """Name the user of a connection."""
    return f"u{number:06d}"


def envelope(number: int, users: range, *, t_us: int | None = None, padding: int = 0) -> bytes:
    """Make a message; `number` counts those of a user from 0, `t_us` is when it was produced."""
    return json.dumps(
        {
            "from": "orders",
            "UUID": new_id(),
            "content": content(number, t_us, padding),
            "toUserIds": [user_name(user) for user in users],
            "createBy": "orders-svc",
            "createDateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
        separators=(",", ":"),
    ).encode()


def content(number: int, t_us: int | None = None, padding: int = 0) -> dict[str, object]:
    """Make a message's `content`, about 130 bytes and `padding`."""
    data: dict[str, object] = {"seq": number} if t_us is None else {"seq": number, "t": t_us}
    if padding:
        data["padding"] = "x" * padding
    return {
        "version": 1.1,
        "type": "order.shipped",
        "title": "On its way",
        "body": "Your parcel has left our house and will be with you tomorrow.",
        "data": data,
    }


def text_around_number() -> tuple[str, str]:
    """Return what a client is sent, before and after the number of the message."""
    public = json.loads(envelope(0, range(1)))
    del public["toUserIds"]
    text = json.dumps({"op": "msg", "at": "0:184200", "message": public}, separators=(",", ":"))
    before, after = text.split('"seq":0')
    return before + '"seq":', after


def tokens(count: int) -> Iterator[str]:
    """Make a token of each user, valid for an hour."""
    import jwt

    expires = int(time.time()) + 3600
    for number in range(count):
        yield jwt.encode({"sub": user_name(number), "exp": expires}, SECRET, algorithm="HS256")
