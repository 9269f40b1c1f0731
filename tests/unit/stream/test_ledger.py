from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notifyd.stream.ledger import PartitionLedger


def test_a_hole_of_one_record_holds_the_commit() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0, 1, 2], 3)
    ledger.ack(1)
    ledger.ack(2)
    assert ledger.committable == 0


def test_nothing_is_committed_before_the_first_record_is_acked() -> None:
    ledger = PartitionLedger(40)
    ledger.read([40, 41], 42)
    ledger.ack(41)
    assert ledger.committable == 40


def test_the_commit_ends_at_the_position_where_the_log_has_holes() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0, 5, 9], 12)
    for offset in (9, 0, 5):
        assert ledger.ack(offset)
    assert ledger.uncommitted == 12


def test_control_records_at_the_end_are_passed_over_only_once_all_before_are_acked() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0], 1)
    ledger.skip_to(3)
    assert ledger.committable == 0
    ledger.ack(0)
    assert ledger.committable == 3


def test_a_late_ack_of_a_revoked_partition_changes_nothing() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0, 1], 2)
    ledger.close()
    assert not ledger.ack(0)
    assert ledger.uncommitted is None


def test_a_second_ack_changes_nothing() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0, 1], 2)
    assert ledger.ack(0)
    assert not ledger.ack(0)
    assert ledger.committable == 1


def test_what_the_broker_has_is_not_committed_again() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0], 1)
    ledger.ack(0)
    assert ledger.uncommitted == 1
    ledger.committed(1)
    assert ledger.uncommitted is None


@pytest.mark.parametrize(
    ("offsets", "position", "message"),
    [
        ([3], 4, "do not rise"),
        ([6, 5], 7, "do not rise"),
        ([5, 5], 6, "do not rise"),
        ([5, 6], 6, "not beyond"),
    ],
)
def test_reading_backwards_is_refused(offsets: list[int], position: int, message: str) -> None:
    ledger = PartitionLedger(5)
    with pytest.raises(ValueError, match=message):
        ledger.read(offsets, position)
    assert ledger.in_flight == 0
    assert ledger.committable == 5


def test_many_acks_at_once_do_what_single_ones_do() -> None:
    ledger = PartitionLedger(0)
    ledger.read([0, 1, 2, 3], 4)
    ledger.ack(1)
    ledger.ack_all([0, 1, 2])
    assert (ledger.committable, ledger.in_flight) == (3, 1)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_of_acks_ends_at_the_end(gaps: list[int], random: object) -> None:
    offsets = []
    offset = 0
    for gap in gaps:
        offsets.append(offset)
        offset += gap
    ledger = PartitionLedger(0)
    ledger.read(offsets, offset)
    order = list(offsets)
    random.shuffle(order)  # type: ignore[attr-defined]
    left = set(offsets)
    for acked in order:
        assert ledger.committable == min(left)
        ledger.ack(acked)
        left.discard(acked)
    assert ledger.committable == offset


class LedgerMachine(RuleBasedStateMachine):
    """Reads, acks and closings in any order, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PartitionLedger(0)
        self.position = 0
        self.unacked: set[int] = set()
        self.is_closed = False

    @precondition(lambda self: not self.is_closed)
    @rule(count=st.integers(1, 5), hole=st.integers(0, 2))
    def read(self, count: int, hole: int) -> None:
        offsets = list(range(self.position, self.position + count))
        self.position += count + hole
        self.ledger.read(offsets, self.position)
        self.unacked.update(offsets)

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.position + 1))
        changed = self.ledger.ack(offset)
        assert changed == (not self.is_closed and offset in self.unacked)
        self.unacked.discard(offset)

    @rule(hole=st.integers(0, 3))
    def skip(self, hole: int) -> None:
        self.ledger.skip_to(self.position + hole)
        if not self.is_closed:
            self.position += hole

    @rule()
    def commit(self) -> None:
        offset = self.ledger.uncommitted
        if offset is not None:
            self.ledger.committed(offset)
            assert self.ledger.uncommitted is None

    @precondition(lambda self: not self.is_closed)
    @rule()
    def close(self) -> None:
        self.ledger.close()
        self.is_closed = True

    @invariant()
    def the_commit_never_passes_an_unacked_record(self) -> None:
        if self.is_closed:
            assert self.ledger.uncommitted is None
        else:
            assert self.ledger.committable == min(self.unacked, default=self.position)
            assert self.ledger.in_flight == len(self.unacked)


TestLedgerMachine = LedgerMachine.TestCase
