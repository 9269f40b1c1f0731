"""Events that differ in their user alone are encoded as if each stood alone."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from notifyd.delivery.event import Event, decode_events, encode_alike, encode_events

EVENT = Event(
    id="019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
    day="2026-11-23",
    digest="ab" * 16,
    user="",
    channel="ws",
    stage="sent",
    at=1_790_000_000_000,
    pod='pod "user":"" 1',
    attempt=1,
    detail="no_acks",
)
awkward = st.sampled_from(['a","b', "x\\", '\\","', '"', '"user":""', "é", "\u2028", "],["])
users = st.lists(st.one_of(awkward, st.text(min_size=1)), min_size=1)


@given(users)
def test_the_same_event_of_many_users_reads_back_as_one_of_each(names: list[str]) -> None:
    each = [msgspec.structs.replace(EVENT, user=name) for name in names]
    alone = msgspec.structs.replace(EVENT, stage="acked", user="zoe")
    value = encode_events([alone, encode_alike(EVENT, names), alone])
    assert decode_events(value) == [alone, *each, alone]
    assert encode_events([encode_alike(EVENT, names)]) == encode_events(each)
