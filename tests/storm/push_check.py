"""What every device was to have against what it has, and how late it was."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storm.check import Loss, Sent
from tests.storm.devices import user_of
from tests.storm.records import lines_of

#: From these on a device gets what there is; before the next of them it may have been deaf.
_HEARS = {"open", "thawed"}
_DEAF = {"waiting", "away", "frozen", "died"}


@dataclass
class Life:
    """What one device wrote down; times in ms since 1970. `opens` has (time, port) of each session."""

    received: dict[str, int] = field(default_factory=dict)
    from_inbox: set[str] = field(default_factory=set)
    acked: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    welcomes: list[tuple[int, str, int]] = field(default_factory=list)
    states: list[tuple[int, str]] = field(default_factory=list)
    opens: list[tuple[int, int]] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    @property
    def is_open(self) -> bool:
        """Whether it has a session, as far as it knows."""
        return bool(self.states) and self.states[-1][1] in _HEARS


@dataclass
class Lives:
    """All devices by name. The rest is known once they have ended: `unconfirmed` acks, and how late their own
    processes were at the most.
    """

    devices: dict[str, Life] = field(default_factory=lambda: defaultdict(Life))
    unconfirmed: int = 0
    repeats: int = 0
    cpu_s: float = 0.0
    lag_s: float = 0.0


def read_lives(journals: Iterable[Path]) -> Lives:
    """Read what devices wrote down by now."""
    lives = Lives()
    for journal in journals:
        for kind, *parts in lines_of(journal):
            if kind == "end":
                lives.unconfirmed += int(parts[0])
                lives.repeats += int(parts[1])
                lives.cpu_s += float(parts[2])
                lives.lag_s = max(lives.lag_s, float(parts[3]))
            else:
                _note(lives.devices[parts[1]], kind, int(parts[0]), parts[2:])
    return lives


def _note(life: Life, kind: str, at_ms: int, rest: Sequence[str]) -> None:
    match kind:
        case "msg":
            life.received[rest[0]] = at_ms
        case "inbox":
            life.received[rest[0]] = at_ms
            life.from_inbox.add(rest[0])
        case "ok":
            life.acked.append(rest[0])
        case "twice":
            life.twice.append(rest[0])
        case "welcome":
            life.welcomes.append((at_ms, rest[0], int(rest[1])))
        case "trouble":
            life.troubles[rest[0]] += 1
        case "state":
            life.states.append((at_ms, rest[0]))
            if rest[0] == "open":
                life.opens.append((at_ms, int(rest[1])))


def addressed_to(sent: Mapping[str, Sent], devices: Iterable[str]) -> dict[str, list[Sent]]:
    """Return what each device is to have."""
    by_user: dict[str, list[Sent]] = defaultdict(list)
    for one in sent.values():
        for user in one.users:
            by_user[user].append(one)
    return {device: by_user[user_of(device)] for device in devices}


def find_missing(sent: Mapping[str, Sent], lives: Lives) -> list[Loss]:
    """Return what devices do not have."""
    return [
        Loss("push_missed", one.id, device, "ws", f"at {one.place}")
        for device, messages in addressed_to(sent, lives.devices).items()
        for one in messages
        if one.id not in lives.devices[device].received
    ]


def find_losses(
    sent: Mapping[str, Sent], unsure: set[str], lives: Lives, states: Mapping[tuple[str, str], str]
) -> list[Loss]:
    """Return all that is not as promised; `states` of ws deliveries in the database by (id, user)."""
    losses = find_missing(sent, lives)
    users_of = {one.id: set(one.users) for one in sent.values()}
    for device, life in lives.devices.items():
        losses += [Loss("given_twice", one, device) for one in life.twice]
        losses += [
            Loss("not_addressed", one, device)
            for one in life.received
            if one not in unsure and user_of(device) not in users_of.get(one, ())
        ]
        losses += [
            Loss("ack_lost", one, device, "ws", states.get((one, user_of(device)), "no row"))
            for one in sorted(set(life.acked))
            if states.get((one, user_of(device))) != "acked"
        ]
    return losses


@dataclass
class Delays:
    """Seconds. `missing_s`: from the broker's confirmation to the device. `heard_s`: of that, what it had a
    session for, so what its own absence does not explain; `later_s`: the same where the session had said
    `later`. `gone_s`: without a session, by no wish of its own.
    """

    missing_s: list[float] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)
    later_s: list[float] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)


def find_delays(sent: Mapping[str, Sent], lives: Lives) -> Delays:
    """Measure how late everything was, and how long devices were without a session."""
    delays = Delays()
    for life in lives.devices.values():
        delays.gone_s += _gone(life)
        hears = [at_ms for at_ms, state in life.states if state in _HEARS]
        laters = [at_ms for at_ms, missing, _ in life.welcomes if missing == "later"]
        for message_id, at_ms in life.received.items():
            if message_id not in sent or message_id in life.from_inbox:
                continue
            confirmed_ms = sent[message_id].confirmed_ms
            delays.missing_s.append(max(0, at_ms - confirmed_ms) / 1000)
            place = bisect.bisect_right(hears, at_ms)
            since_ms = hears[place - 1] if place and not _is_deaf(life, at_ms) else at_ms
            heard_s = max(0, at_ms - max(confirmed_ms, since_ms)) / 1000
            # The welcome that says `later` is written down just after the session is open.
            is_later = any(since_ms <= later_ms <= at_ms for later_ms in laters[-50:])
            (delays.later_s if is_later else delays.heard_s).append(heard_s)
    return delays


def _is_deaf(life: Life, at_ms: int) -> bool:
    """Whether it had no session at that moment: what comes then comes before a welcome."""
    place = bisect.bisect_right(life.states, at_ms, key=lambda one: one[0])
    return place == 0 or life.states[place - 1][1] not in _HEARS


def _gone(life: Life) -> Iterable[float]:
    since: int | None = None
    for at_ms, state in life.states:
        if state == "waiting" and since is None:
            since = at_ms
        elif state == "away":
            since = None
        elif state == "open" and since is not None:
            yield (at_ms - since) / 1000
            since = None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return number, median, 99th percentile and the most."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[int(len(ordered) * 0.99)], 2),
        "max": round(ordered[-1], 2),
    }


def figures(sent: Mapping[str, Sent], lives: Lives) -> dict[str, Any]:
    """Return counts and times for the report."""
    delays = find_delays(sent, lives)
    devices = lives.devices.values()
    return {
        "devices": len(lives.devices),
        "messages": len(sent),
        "deliveries": sum(len(one) for one in addressed_to(sent, lives.devices).values()),
        "received": sum(len(life.received) for life in devices),
        "from_inbox": sum(len(life.from_inbox) for life in devices),
        "repeats": lives.repeats,
        "acks_confirmed": len(
            {(one, user_of(name)) for name, life in lives.devices.items() for one in life.acked}
        ),
        "acks_unconfirmed": lives.unconfirmed,
        "sessions": sum(len(life.opens) for life in devices),
        "troubles": dict(sum((life.troubles for life in devices), Counter())),
        "welcomes": dict(Counter(missing for life in devices for _, missing, _ in life.welcomes)),
        "replayed": sum(count for life in devices for _, _, count in life.welcomes),
        "missing_s": spread(delays.missing_s),
        "late_while_connected_s": spread(delays.heard_s),
        "late_after_later_s": spread(delays.later_s),
        "without_session_s": spread(delays.gone_s),
        "devices_cpu_s": round(lives.cpu_s, 1),
        "devices_lag_s": lives.lag_s,
    }
