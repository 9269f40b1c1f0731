"""Every small history of a group holds, and the explorer finds the bugs that it is there for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from notifyd.stream.ledger import PartitionLedger
from tests.unit.stream.explorer import Rules, explore

#: Deeper: `EXPLORER_DEPTH=9 pytest tests/unit/stream/test_explorer.py` takes minutes.
DEPTH = int(os.environ.get("EXPLORER_DEPTH", "7"))


@pytest.mark.parametrize("records", [2, 4])
def test_everything_holds_in_every_small_history(records: int) -> None:
    depth = DEPTH if records == 2 else DEPTH - 1
    found = explore(Rules(records=records), depth=depth)
    assert not found.history, found
    assert found.states > 1000


def test_a_narrow_window_changes_nothing() -> None:
    found = explore(Rules(records=3, window=2, batch=1), depth=DEPTH - 1)
    assert not found.history, found


class HighestAcked(PartitionLedger):
    """Commits after the highest record that was acked."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.mutant: set[int] = set()

    @property
    def committable(self) -> int:
        return max(self.mutant) + 1 if self.mutant else super().committable

    def ack(self, offset: int) -> bool:
        self.mutant.add(offset)
        return super().ack(offset)


class HoleOfOne(PartitionLedger):
    """Passes a hole of one record, as stock Faust does."""

    @property
    def committable(self) -> int:
        held = super().committable
        pending = [*self._pending]
        after = pending[1] if len(pending) > 1 else self.position
        return after if pending and after - held > 1 else held


class NeverClosed(PartitionLedger):
    """Takes acks after its epoch, and goes on to commit."""

    def close(self) -> None:
        pass


class CommitsRead(PartitionLedger):
    """Commits what was read, as an automatic commit does."""

    @property
    def committable(self) -> int:
        return self.position


class Counts(PartitionLedger):
    """Counts acks rather than remembering offsets."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.mutant = {start}

    @property
    def committable(self) -> int:
        return max(self.mutant)

    def ack(self, offset: int) -> bool:
        if not super().ack(offset):
            return False
        self.mutant.add(max(self.mutant) + 1)
        return True


class Forgets(PartitionLedger):
    """Enters the first record of a batch alone."""

    def read(self, offsets: Iterable[int], position: int, sizes: Sequence[int] | None = None) -> None:
        super().read([*offsets][:1], position)


BUGS = {
    "the highest acked": Rules(ledger=HighestAcked),
    "a hole of one": Rules(ledger=HoleOfOne),
    "what was read": Rules(ledger=CommitsRead),
    "a count of acks": Rules(ledger=Counts),
    "a record forgotten": Rules(ledger=Forgets),
    "acks after the end": Rules(ledger=NeverClosed),
    "a start where reading stopped": Rules(starts_at_position=True),
    "a commit that outlives its epoch": Rules(ends_routine=False),
}


@pytest.mark.parametrize("compares", [True, False], ids=["at once", "by what reaches the broker"])
@pytest.mark.parametrize("bug", BUGS)
def test_it_finds_a_bug_by_a_shortest_history(bug: str, compares: bool) -> None:
    found = explore(replace(BUGS[bug], compares=compares), depth=6)
    print(found)
    assert found.history, "the bug was not found"
    assert len(found.history) <= 7
    seen = "the flow says" if compares else "passes"
    by_the_broker = {
        "a start where reading stopped": "passes",
        "a commit that outlives its epoch": "goes back",
    }
    assert by_the_broker.get(bug, "passes" if bug == "acks after the end" else seen) in found.reason


def test_a_failing_history_is_printed_step_by_step() -> None:
    lines = str(explore(Rules(ledger=CommitsRead), depth=3)).splitlines()
    assert lines[1:] == [
        "  1. rebalance: 0 to A, 1 to B",
        "  2. A reads 0",
        "  => the flow says (commit, in flight, position) (2, 2, 2), which is (0, 2, 2)",
    ]
