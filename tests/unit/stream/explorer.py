"""All small histories of a consumer group over the engine's own flow and ledger.

Two members, two partitions, a few records each, and a broker of twenty lines: every order of
read, ack, late ack, commit (sent, and arriving later), rebalance, a member thrown out that
does not know it yet, crash. Breadth first, so that a history that fails is a shortest one.

    python -m tests.unit.stream.explorer --depth 9 --records 4

What must hold after every step:
- a commit never passes a record whose effect nobody has made durable;
- the place of a partition at the broker never goes back, while the group's rules are kept;
- a flow says what a plain set says: its lowest unacked offset, what is in flight, its position.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Final

from faust.types import TP

from notifyd.stream.flow import PartitionFlow
from notifyd.stream.ledger import PartitionLedger

MEMBERS: Final = (0, 1)
PARTITIONS: Final = (0, 1)
#: Who owns partition 0, and who 1.
ASSIGNMENTS: Final = tuple(itertools.product(MEMBERS, MEMBERS))
NAMES: Final = "AB"

#: What happens, in words; whom it touches; what to do to a world.
Action = tuple[str, tuple[int, ...], Callable[["World"], None]]


class Broken(Exception):
    """Something that must hold does not."""


@dataclass(frozen=True)
class Rules:
    """What is explored. `ledger` makes the ledgers; the flags break the engine on purpose."""

    records: int = 3
    window: int = 8
    batch: int = 2
    ledger: Callable[[int], PartitionLedger] = PartitionLedger
    #: A commit is signed with the generation of its arrival, as aiokafka does when it repeats one.
    is_resigned: bool = True
    #: The engine ends a commit under way before the last one of an assignment, and when it was lost.
    ends_routine: bool = True
    #: A new owner begins where the old one had read to, not at the commit.
    starts_at_position: bool = False
    #: Compare each flow with a plain account; without, only what reaches the broker is judged.
    compares: bool = True


@dataclass
class Life:
    """A flow, beside a plain account of what it should say."""

    flow: PartitionFlow
    position: int
    unacked: set[int] = field(default_factory=set)

    def clone(self) -> Life:
        """Copy it with what it holds; nothing asynchronous is in there."""
        flow = copy.copy(self.flow)
        flow._ledger = copy.copy(flow._ledger)
        ledger: Any = flow._ledger
        ledger._pending = dict(ledger._pending)
        for name in ("mutant",):  # what a broken ledger of a test keeps
            if hasattr(ledger, name):
                setattr(ledger, name, copy.copy(getattr(ledger, name)))
        flow._fetches = deque(flow._fetches)
        return Life(flow, self.position, set(self.unacked))

    def key(self) -> tuple[Any, ...]:
        """What makes a difference to the future."""
        ledger: Any = self.flow._ledger
        mutant = tuple(sorted(getattr(ledger, "mutant", ())))
        if ledger._is_closed and not ledger._pending and not mutant:
            return ()  # it says nothing any more, whatever is asked of it
        return (self.position, tuple(ledger._pending), ledger._committed or 0, ledger._is_closed, mutant)

    def check(self) -> None:
        """Compare the flow with the account."""
        flow = self.flow
        said = (flow.committable, flow.in_flight, flow.position)
        true = (min(self.unacked, default=self.position), len(self.unacked), self.position)
        if said != true:
            raise Broken(f"the flow says (commit, in flight, position) {said}, which is {true}")


@dataclass
class Member:
    """A process: what it owns as far as it knows, what it owned, a commit under way."""

    generation: int = 0
    lives: dict[int, Life] = field(default_factory=dict)
    #: The last closed life of each partition: its tasks may still ack.
    old: dict[int, Life] = field(default_factory=dict)
    commit: tuple[int, tuple[tuple[int, int], ...]] | None = None
    is_up: bool = True

    def clone(self) -> Member:
        """Copy it with its flows."""
        return Member(
            self.generation,
            {number: life.clone() for number, life in self.lives.items()},
            {number: life.clone() for number, life in self.old.items()},
            self.commit,
            self.is_up,
        )


class World:
    """Two members and their broker."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.members = [Member(), Member()]
        self.generation = 0
        self.committed: list[int | None] = [None, None]
        self.done: list[set[int]] = [set(), set()]
        self.read_to = [0, 0]

    def clone(self, touched: tuple[int, ...]) -> World:
        """Copy what changes when these members do something; the rest is shared."""
        new = object.__new__(World)
        new.rules = self.rules
        new.members = [
            member.clone() if number in touched else member for number, member in enumerate(self.members)
        ]
        new.generation = self.generation
        new.committed = list(self.committed)
        new.done = [set(done) for done in self.done]
        new.read_to = list(self.read_to)
        return new

    def key(self) -> tuple[Any, ...]:
        """Equal for worlds with the same future.

        Generations count by their distance alone, and it does not matter which member, or
        which partition, has which name: of the four ways to name them the least is the key.
        """
        of_partitions = [
            (
                self.committed[p] or 0,
                sum(1 << offset for offset in self.done[p]),
                self.read_to[p] if self.rules.starts_at_position else 0,
            )
            for p in PARTITIONS
        ]
        of_members = []
        for member in self.members:
            signed, offsets = member.commit or (None, ())
            due = dict(offsets)
            of_member = (member.is_up, member.generation == self.generation, signed == self.generation)
            of_lives = [
                (
                    member.lives[p].key() if p in member.lives else (),
                    member.old[p].key() if p in member.old else (),
                    due.get(p, -1),
                )
                for p in PARTITIONS
            ]
            of_members.append((of_member, of_lives))
        names = []
        for one, other in ((0, 1), (1, 0)):
            named = [(of_member, of_lives[one], of_lives[other]) for of_member, of_lives in of_members]
            names.append((of_partitions[one], of_partitions[other], *sorted(named)))
        return min(names)

    # What may happen next

    def actions(self) -> Iterator[Action]:
        """Every step that is possible now."""
        for number in MEMBERS:
            member = self.members[number]
            if not member.is_up:
                continue
            name, me = NAMES[number], (number,)
            for partition, life in sorted(member.lives.items()):
                if life.flow.room and life.position < self.rules.records:
                    yield f"{name} reads {partition}", me, _bound(World.read, number, partition)
                for offset in sorted(life.unacked):
                    yield (
                        f"{name} does {partition}@{offset} and acks it",
                        me,
                        _bound(World.ack, number, partition, offset),
                    )
            for partition, life in sorted(member.old.items()):
                for offset in sorted(life.unacked):
                    yield (
                        f"{name} acks {partition}@{offset} late, its work was cancelled",
                        me,
                        _bound(World.ack_late, number, partition, offset),
                    )
            if member.commit is None:
                yield f"{name} sends a commit", me, _bound(World.send_commit, number)
            else:
                yield f"{name}'s commit arrives", me, _bound(World.deliver_commit, number)
            if member.lives and member.generation == self.generation:
                yield f"{name} is thrown out and does not know", MEMBERS, _bound(World.throw_out, number)
                yield f"{name} crashes", MEMBERS, _bound(World.crash, number)
            elif member.lives:
                yield f"{name} learns that it was thrown out", me, _bound(World.lose, number)
        for owners in ASSIGNMENTS:
            yield (
                f"rebalance: 0 to {NAMES[owners[0]]}, 1 to {NAMES[owners[1]]}",
                MEMBERS,
                _bound(World.rebalance, owners),
            )

    # Steps

    def read(self, number: int, partition: int) -> None:
        """Fetch the next records, as far as the window and the log go."""
        life = self.members[number].lives[partition]
        limit = min(self.rules.batch, life.flow.room, self.rules.records - life.position)
        offsets = range(life.position, life.position + limit)
        records = [SimpleNamespace(offset=offset, timestamp=0, value=None) for offset in offsets]
        life.flow.take(records, offsets.stop, 0)
        life.unacked.update(offsets)
        life.position = offsets.stop
        self.read_to[partition] = max(self.read_to[partition], offsets.stop)

    def ack(self, number: int, partition: int, offset: int) -> None:
        """Make the effect durable, then ack."""
        life = self.members[number].lives[partition]
        self.done[partition].add(offset)
        life.flow.ack(offset)
        life.unacked.discard(offset)

    def ack_late(self, number: int, partition: int, offset: int) -> None:
        """An ack without an effect, out of an epoch that has ended."""
        life = self.members[number].old[partition]
        life.flow.ack(offset)

    def send_commit(self, number: int) -> None:
        """Take what the flows allow, the ended ones too: they must allow nothing."""
        member = self.members[number]
        lives = {**member.old, **member.lives}
        offsets = [(p, life.flow.uncommitted) for p, life in sorted(lives.items())]
        due = tuple((p, offset) for p, offset in offsets if offset is not None)
        if due:
            member.commit = (member.generation, due)

    def deliver_commit(self, number: int) -> None:
        """The broker takes it from a member of the present generation alone."""
        member = self.members[number]
        assert member.commit is not None
        signed, offsets = member.commit
        member.commit = None
        generation = member.generation if self.rules.is_resigned else signed
        if generation == self.generation and member.is_up:
            self._store(member, offsets)

    def _store(self, member: Member, offsets: tuple[tuple[int, int], ...]) -> None:
        for partition, offset in offsets:
            before = self.committed[partition]
            missing = set(range(offset)) - self.done[partition]
            if missing:
                raise Broken(f"commit {partition}@{offset} passes {sorted(missing)}, which nobody has done")
            if before is not None and offset < before:
                raise Broken(f"commit {partition}@{offset} goes back from {before}")
            self.committed[partition] = offset
            if partition in member.lives:
                member.lives[partition].flow.committed(offset)

    def rebalance(self, owners: tuple[int, ...]) -> None:
        """All members of the group give everything back and get their share; the dead one is up again."""
        for number in MEMBERS:
            member = self.members[number]
            if member.generation == self.generation and member.is_up:
                self._let_go(member)
            else:
                self._end(member)
            member.is_up = True
        self._assign(owners)

    def _let_go(self, member: Member) -> None:
        """As `let_go`: nothing new, a last commit, close."""
        for life in member.lives.values():
            life.flow.drain()
        if self.rules.ends_routine and member.commit is not None:
            # It is on the wire, or it was never sent; the last one follows on the same connection.
            self.deliver_commit(self.members.index(member))
        offsets = [(p, life.flow.uncommitted) for p, life in sorted(member.lives.items())]
        self._store(member, tuple((p, offset) for p, offset in offsets if offset is not None))
        self._end(member)

    def _end(self, member: Member) -> None:
        if self.rules.ends_routine:
            member.commit = None
        for life in member.lives.values():
            life.flow.close()
        member.old.update(member.lives)
        member.lives = {}

    def _assign(self, owners: tuple[int, ...]) -> None:
        self.generation += 1
        for number, member in enumerate(self.members):
            # Who was thrown out and does not know it keeps what it has, and its old generation.
            if member.is_up and (number in owners or not member.lives):
                member.generation = self.generation
        for partition, number in enumerate(owners):
            start = self.committed[partition] or 0
            if self.rules.starts_at_position:
                start = self.read_to[partition]
            self.members[number].lives[partition] = self._open(partition, start)

    def _open(self, partition: int, start: int) -> Life:
        flow = PartitionFlow(
            TP("t", partition), window=self.rules.window, on_change=_nothing, on_failure=_nothing
        )
        flow.start_at(start)
        if self.rules.ledger is not PartitionLedger:
            flow._ledger = self.rules.ledger(start)
        return Life(flow, start)

    def throw_out(self, number: int) -> None:
        """The group goes on without a member, which still believes in what it owns."""
        other = 1 - number
        survivor = self.members[other]
        if survivor.generation == self.generation and survivor.is_up:
            self._let_go(survivor)
        else:
            self._end(survivor)
            survivor.is_up = True
        self._assign((other, other))

    def crash(self, number: int) -> None:
        """Everything in memory is gone; the group notices."""
        self.members[number] = Member(generation=-1, is_up=False)
        self.throw_out(number)

    def lose(self, number: int) -> None:
        """Thrown out, and told so: what runs is cancelled, nothing is committed."""
        self._end(self.members[number])

    def check(self) -> None:
        """Raise `Broken` where a live flow says something else than the account."""
        if not self.rules.compares:
            return
        for member in self.members:
            for life in member.lives.values():
                life.check()


def _nothing(*_: object) -> None:
    pass


def _bound(step: Callable[..., None], *arguments: Any) -> Callable[[World], None]:
    return lambda world: step(world, *arguments)


@dataclass(frozen=True)
class Found:
    """What an exploration saw. `history` is a shortest one that fails; empty where none does."""

    states: int
    depth: int
    history: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if not self.history:
            return f"{self.states} states up to depth {self.depth}: everything holds"
        steps = [f"  {number}. {step}" for number, step in enumerate(self.history, 1)]
        return "\n".join([f"after {self.states} states:", *steps, f"  => {self.reason}"])


def explore(rules: Rules, *, depth: int) -> Found:
    """Try every history of at most `depth` steps after the first assignment."""
    start = World(rules)
    start.rebalance((0, 1))
    seen = {start.key()}
    layer: list[tuple[World, tuple[Any, ...]]] = [(start, ())]
    for _ in range(depth):
        following = []
        for world, history in layer:
            for name, touched, act in world.actions():
                new = world.clone(touched)
                try:
                    act(new)
                    new.check()
                except (Broken, ValueError) as error:
                    steps = (*_unwound(history), name)
                    return Found(len(seen), len(steps), steps, str(error))
                key = new.key()
                if key not in seen:
                    seen.add(key)
                    following.append((new, (history, name)))
        layer = following
    return Found(len(seen), depth)


def _unwound(history: tuple[Any, ...]) -> tuple[str, ...]:
    steps = []
    while history:
        history, name = history
        steps.append(name)
    return ("rebalance: 0 to A, 1 to B", *reversed(steps))


def main() -> int:
    """Explore as deep as the arguments say; print a shortest failing history, or that there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--records", type=int, default=3, help="of each of the two partitions")
    arguments = parser.parse_args()
    rules = replace(Rules(), records=arguments.records)
    began = time.monotonic()
    found = explore(rules, depth=arguments.depth)
    print(f"{found}  ({time.monotonic() - began:.1f} s)")
    return 1 if found.history else 0


if __name__ == "__main__":
    sys.exit(main())
