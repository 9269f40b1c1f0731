"""The checkers of the push storms: what they find, and how they measure."""

from __future__ import annotations

from tests.storm.check import Sent
from tests.storm.devices import count_users, name_device, user_of
from tests.storm.drain import find_moves, problems_of
from tests.storm.messages import listener, plan_push
from tests.storm.push_check import Life, Lives, find_delays, find_losses, find_missing

SENT = {
    "m1": Sent("m1", ("alice",), ("ws",), 900, 1000),
    "m2": Sent("m2", ("alice", "bob"), ("ws",), 1900, 2000),
}


def lives_of(**devices: Life) -> Lives:
    return Lives({name.replace("__", "~"): life for name, life in devices.items()})


def test_each_device_of_a_user_must_have_each_message() -> None:
    lives = lives_of(
        alice=Life(received={"m1": 1, "m2": 2}),
        alice__2=Life(received={"m2": 2}),
        bob=Life(received={"m2": 1}),
    )
    assert [(loss.kind, loss.id, loss.user) for loss in find_missing(SENT, lives)] == [
        ("push_missed", "m1", "alice~2")
    ]


def test_what_was_given_twice_or_to_another_or_has_no_row_is_a_loss() -> None:
    lives = lives_of(
        alice=Life(received={"m1": 1, "m2": 2}, twice=["m1"], acked=["m1", "m2"]),
        bob=Life(received={"m2": 1, "m1": 1, "unsure": 1}),
    )
    states = {("m1", "alice"): "acked", ("m2", "alice"): "sent"}
    losses = find_losses(SENT, {"unsure"}, lives, states)
    assert {(loss.kind, loss.id, loss.user) for loss in losses} == {
        ("given_twice", "m1", "alice"),
        ("ack_lost", "m2", "alice"),
        ("not_addressed", "m1", "bob"),
    }


def test_a_message_is_late_from_when_there_was_a_session_to_send_it_on() -> None:
    life = Life(
        # m1 comes on the session of 3000, m2 before the welcome of the next.
        received={"m1": 3500, "m2": 5900},
        states=[(500, "open"), (800, "waiting"), (3000, "open"), (4000, "waiting"), (6000, "open")],
    )
    delays = find_delays(SENT, lives_of(alice=life))
    assert sorted(delays.missing_s) == [2.5, 3.9]
    assert sorted(delays.heard_s) == [0.0, 0.5]
    assert delays.gone_s == [2.2, 2.0]


def test_what_comes_after_a_later_is_measured_apart() -> None:
    life = Life(received={"m1": 9000}, states=[(3000, "open")], welcomes=[(3001, "later", 0)])
    delays = find_delays(SENT, lives_of(alice=life))
    assert (delays.heard_s, delays.later_s) == ([], [6.0])


def test_a_drain_is_judged_by_all_coming_in_time_and_not_at_once() -> None:
    even = {f"d{number}": (number / 100, number / 100 + 0.1) for number in range(1000)}
    assert problems_of(even, 1000, 10.0) == []
    assert len(problems_of(even, 1001, 10.0)) == 1
    assert len(problems_of({**even, "d7": (9.0, 14.0)}, 1000, 10.0)) == 1
    at_once = {name: (number % 200 / 100, 2.0) for number, name in enumerate(even)}
    assert len(problems_of(at_once, 1000, 10.0)) == 2


def test_a_move_is_the_first_session_at_the_other_process_after_the_signal() -> None:
    life = Life(
        states=[(100, "connecting"), (200, "open"), (1500, "connecting"), (1700, "open")],
        opens=[(200, 1), (1700, 2), (9000, 2)],
    )
    assert find_moves(lives_of(alice=life), 1000.0, 2) == {"alice": (0.5, 0.7)}


def test_one_user_in_ten_has_a_second_device() -> None:
    names = [name_device(number, 110) for number in range(110)]
    assert len(set(names)) == 110
    assert len({user_of(name) for name in names}) == count_users(110) == 100
    assert names[-1] == "listener-9~2"


def test_pushes_go_to_few_users_and_some_to_very_many() -> None:
    plans = [plan_push(7, number, 1000) for number in range(2000)]
    assert plans == [plan_push(7, number, 1000) for number in range(2000)]
    assert {len(plan.users) for plan in plans} == {1, 2, 3, 4, 5, 500}
    assert {user for plan in plans for user in plan.users} <= {listener(number) for number in range(1000)}
    assert max(plan.body_bytes for plan in plans) > 16_384
