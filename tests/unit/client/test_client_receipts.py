"""What a client keeps until the server has confirmed it."""

from __future__ import annotations

from notifyd.client.receipts import MAX_IDS, MAX_KEPT, Receipts


def test_what_is_sent_is_kept_until_confirmed():
    receipts = Receipts()
    receipts.add("ack", ["a", "b"])
    receipts.add("read", ["a"])
    assert receipts.take() == [{"op": "ack", "ids": ["a", "b"]}, {"op": "read", "ids": ["a"]}]
    assert receipts.take() == []
    receipts.confirm({"op": "ok", "ack": ["a"]})
    receipts.begin()
    assert receipts.take() == [{"op": "ack", "ids": ["b"]}, {"op": "read", "ids": ["a"]}]
    receipts.confirm({"op": "ok", "ack": ["b"]})
    receipts.confirm({"op": "ok", "read": ["a"]})
    assert len(receipts) == 0


def test_refused_ids_are_not_sent_again():
    receipts = Receipts()
    receipts.add("ack", ["a", "b"])
    receipts.confirm({"op": "ok", "ack": ["a"], "refused": ["b"]})
    receipts.begin()
    assert receipts.take() == []


def test_frames_stay_within_the_servers_limits():
    receipts = Receipts()
    receipts.add("ack", [f"{n}" for n in range(2 * MAX_IDS + 1)])
    assert [len(frame["ids"]) for frame in receipts.take()] == [MAX_IDS, MAX_IDS, 1]


def test_what_is_never_confirmed_does_not_grow_for_ever():
    receipts = Receipts()
    receipts.add("ack", (f"{n}" for n in range(MAX_KEPT + 5)))
    assert len(receipts) == MAX_KEPT
    assert receipts.take()[0]["ids"][0] == "5"
