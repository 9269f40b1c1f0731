"""Tickets: signed, short-lived, once per process, and neither token nor forgeable."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifyd.errors import TransientError
from notifyd.push import tickets
from notifyd.push.auth import Identity, PermissionDenied, TokenVerifier
from notifyd.push.tickets import TTL_S, NoTickets, Tickets
from tests.fixtures.push import SECRET, push_settings

ALICE = Identity("alice", frozenset(["notify:send"]), 2_000_000_000.0)


class World:
    def __init__(self, **overrides: Any) -> None:
        self.at_s = 1_900_000_000.0
        self.settings = push_settings(**overrides)

    def tickets(self) -> Tickets:
        return Tickets(self.settings, now=lambda: self.at_s)


@pytest.fixture
def world() -> World:
    return World()


def test_a_ticket_says_who_and_until_when_and_carries_no_scope(world):
    made = world.tickets()
    identity = made.take(made.make(ALICE))
    assert identity == Identity("alice", frozenset(), ALICE.expires_at_s)


def test_a_ticket_serves_once_per_process_and_at_any_process(world):
    one, other = world.tickets(), world.tickets()
    ticket = one.make(ALICE)
    other.take(ticket)
    with pytest.raises(PermissionDenied, match="used before"):
        other.take(ticket)
    # What another process took is not known here: stated in the docs.
    one.take(ticket)
    with pytest.raises(PermissionDenied):
        one.take(ticket)


def test_a_ticket_ends_in_time_and_with_the_token_behind_it(world):
    made = world.tickets()
    ticket = made.make(ALICE)
    short = made.make(Identity("bob", frozenset(), world.at_s + 5))
    world.at_s += 6
    with pytest.raises(PermissionDenied, match="expired"):
        made.take(short)
    world.at_s += TTL_S - 6
    with pytest.raises(PermissionDenied, match="expired"):
        made.take(ticket)


def test_used_tickets_are_remembered_until_they_expire_and_no_longer(world, monkeypatch):
    monkeypatch.setattr(tickets, "MAX_USED", 3)
    made = world.tickets()
    for _ in range(3):
        made.take(made.make(ALICE))
    with pytest.raises(TransientError):
        made.take(made.make(ALICE))
    world.at_s += TTL_S
    made.take(made.make(ALICE))
    assert len(made._used) == 1


def test_tokens_and_tickets_do_not_pass_for_each_other(world):
    made = world.tickets()
    with pytest.raises(PermissionDenied):
        TokenVerifier(world.settings).verify(made.make(ALICE))
    token = jwt.encode({"sub": "alice", "exp": 2e9, "jti": "1", "end": 2e9}, SECRET, algorithm="HS256")
    with pytest.raises(PermissionDenied):
        made.take(token)


def test_published_keys_need_a_secret_for_tickets():
    published = {"jwt_secret": None, "jwt_jwks_url": "https://x", "jwt_issuer": "i", "jwt_audience": "a"}
    with pytest.raises(NoTickets, match="NOTIFYD_WS_TICKET_SECRET"):
        World(**published).tickets().make(ALICE)
    with pytest.raises(NoTickets):
        World(**published).tickets().take("x")
    made = World(**published, ws_ticket_secret="s" * 32).tickets()
    assert made.take(made.make(ALICE)).user == "alice"


@pytest.mark.parametrize("user", ["\U0001f600" * 128, "a b/c?d=e&f", '"\\\u2028'])
def test_any_user_id_fits_into_a_ticket(world, user):
    made = world.tickets()
    ticket = made.make(Identity(user, frozenset(), 2e9))
    assert len(ticket) < 4096
    assert made.take(ticket).user == user


@settings(max_examples=50)
@given(text=st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: b.decode("latin-1"))))
def test_nothing_else_is_a_ticket(text):
    with pytest.raises(PermissionDenied):
        World().tickets().take(text)


@settings(max_examples=50)
@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=127))
def test_a_changed_ticket_is_none(at, flip):
    world = World()
    made = world.tickets()
    ticket = made.make(ALICE)
    at %= len(ticket)
    changed = ticket[:at] + chr(ord(ticket[at]) ^ flip) + ticket[at + 1 :]
    # The last character of a signature holds two bits that say nothing.
    if at < len(ticket) - 1:
        with pytest.raises(PermissionDenied):
            made.take(changed)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": "alice", "exp": 2e9, "jti": "1"},
        {"sub": "alice", "exp": "x", "jti": "1", "end": 2e9},
        {"sub": "alice", "exp": 2e9, "jti": "1", "end": None},
        {"sub": "alice", "exp": float("nan"), "jti": "1", "end": 2e9},
    ],
)
def test_a_signed_value_of_another_shape_is_none(world, claims):
    made = world.tickets()
    assert made._key is not None
    with pytest.raises(PermissionDenied):
        made.take(jwt.encode(claims, made._key, algorithm="HS256"))
