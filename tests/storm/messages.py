"""What the backend of a storm sends: message number n is the same in each storm of a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Users that have a webhook and no device; as many share a receiver's load.
HOOK_USERS: Final = 5000
#: `webhook_host_concurrency` counts by host; on Linux all of 127.0.0.0/8 is this machine.
HOOK_HOSTS: Final = tuple(f"127.0.0.{number}" for number in range(1, 7))

#: Shares of: webhook alone, push alone, both.
_KINDS: Final = ("webhook", "ws", "both")
_SHARES: Final = (50, 35, 15)
_BUSY_KEY_SHARE: Final = 0.02
_RANDOM_ID_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Planned:
    """Message number `number`: `users` by `channels`; `key` None means its id."""

    number: int
    users: tuple[str, ...]
    channels: tuple[str, ...]
    key: str | None
    has_random_id: bool
    body_bytes: int = 0

    def parts(self, message_id: str, hook_port: int) -> dict[str, Any]:
        """Return the arguments of `Notifier.send`."""
        parts: dict[str, Any] = {
            "id": message_id,
            "to": list(self.users),
            "title": f"Number {self.number}",
            "type": "storm.message",
            "channels": list(self.channels),
        }
        if self.body_bytes:
            parts["body"] = "x" * self.body_bytes
        if self.key is not None:
            parts["key"] = self.key
        if "webhook" in self.channels:
            parts["contacts"] = {user: _contact(user, hook_port) for user in self.users}
        return parts


def _contact(user: str, hook_port: int) -> Mapping[str, Any]:
    host = HOOK_HOSTS[hash_of(user) % len(HOOK_HOSTS)]
    return {"userId": user, "webhook": [{"url": f"http://{host}:{hook_port}/{user}"}]}


def hash_of(text: str) -> int:
    """Return a number that is the same in every process (`hash` is not)."""
    return int.from_bytes(text.encode()[-4:], "big")


def plan_message(seed: int, number: int, listeners: int) -> Planned:
    """Plan message number `number`; `listeners` users have a device that is there."""
    chance = random.Random(f"message {seed} {number}")
    (kind,) = chance.choices(_KINDS, _SHARES) if listeners else ("webhook",)
    if kind == "webhook":
        users, channels = [f"hook-{chance.randrange(HOOK_USERS)}"], ["webhook"]
    else:
        many = chance.randint(1, min(3, listeners)) if kind == "ws" else 1
        users = [listener(one) for one in chance.sample(range(listeners), many)]
        channels = ["ws"] if kind == "ws" else ["ws", "webhook"]
    key = "busy-customer" if chance.random() < _BUSY_KEY_SHARE else None
    return Planned(number, tuple(users), tuple(channels), key, chance.random() < _RANDOM_ID_SHARE)


#: Of pushes: how many go to `_MANY_USERS` at once, and sizes of bodies (from, to, share).
_MANY_SHARE: Final = 0.003
_MANY_USERS: Final = 500
_BODIES: Final = ((0, 300, 80), (300, 4_000, 17), (4_000, 60_000, 3))


def plan_push(seed: int, number: int, listeners: int) -> Planned:
    """Plan message number `number` of a push storm: to one to five users, some to very many."""
    chance = random.Random(f"push {seed} {number}")
    is_for_many = chance.random() < _MANY_SHARE
    many = _MANY_USERS if is_for_many else chance.randint(1, 5)
    users = tuple(listener(one) for one in chance.sample(range(listeners), min(many, listeners)))
    ((least, most, _),) = chance.choices(_BODIES, [share for _, _, share in _BODIES])
    size = 0 if is_for_many else chance.randint(least, most)
    return Planned(number, users, ("ws",), None, chance.random() < _RANDOM_ID_SHARE, size)


def plan_one(seed: int, number: int, listeners: int) -> Planned:
    """Plan message number `number` of a search for the knee of push, or of the store: small, to one user."""
    chance = random.Random(f"one {seed} {number}")
    return Planned(number, (listener(chance.randrange(listeners)),), ("ws",), None, False, body_bytes=100)


def plan_hook(seed: int, number: int, _: int) -> Planned:
    """Plan message number `number` of a search for the knee of webhooks: small, to one user."""
    chance = random.Random(f"hook {seed} {number}")
    return Planned(
        number, (f"hook-{chance.randrange(HOOK_USERS)}",), ("webhook",), None, False, body_bytes=100
    )


#: What a storm sends, by name.
PLANS: Final[Mapping[str, Callable[[int, int, int], Planned]]] = {
    "all": plan_message,
    "push": plan_push,
    "one": plan_one,
    "hook": plan_hook,
}


def listener(number: int) -> str:
    """Name a user whose device listens."""
    return f"listener-{number}"
