"""Places and strangers, and where a client really is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from notifyd import descriptors
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.push.addresses import Proxies
from notifyd.push.admission import Admission, Origin
from notifyd.push.limits import PushLimits
from notifyd.push.requests import Refusal
from notifyd.roles.ws import WsRole
from notifyd.settings import load_settings
from tests.fixtures.push import push_settings

LIMITS = replace(PushLimits.of(push_settings()), max_connections=3, max_connections_per_address=2)


class Peer:
    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


def admission(**more: int) -> Admission:
    return Admission(LIMITS, Metrics(), **more)


def status(judge: Admission, address: str, *, members: int = 0, is_draining: bool = False) -> int | None:
    try:
        judge.check(address, members=members, is_draining=is_draining)
    except Refusal as refusal:
        assert int(refusal.headers["Retry-After"]) > 0
        return refusal.status
    return None


def test_an_address_has_so_many_sockets_and_another_has_its_own():
    judge, peers = admission(), [Peer() for _ in range(2)]
    for peer in peers:
        assert status(judge, "192.0.2.1") is None
        judge.enter(peer, Origin("192.0.2.1"))
        judge.greet(peer)
    assert status(judge, "192.0.2.1") == 429
    assert status(judge, "192.0.2.2") is None
    judge.leave(peers[0])
    judge.leave(peers[0])
    assert status(judge, "192.0.2.1") is None


def test_nothing_is_kept_of_an_address_that_has_left():
    judge, peer = admission(), Peer()
    judge.enter(peer, Origin("192.0.2.1"))
    judge.leave(peer)
    assert not judge._counts
    assert not judge._address_of
    assert not judge._strangers


def test_an_address_that_is_not_known_is_not_counted():
    judge = admission()
    for _ in range(5):
        judge.enter(Peer(), Origin(""))
    assert status(judge, "") is None


def test_a_full_process_and_one_that_goes_say_when_to_come_again():
    judge = admission()
    assert status(judge, "192.0.2.1", members=2) is None
    assert status(judge, "192.0.2.1", members=3) == 503
    assert status(judge, "192.0.2.1", is_draining=True) == 503


def test_of_too_many_strangers_the_one_that_waited_longest_goes():
    judge = admission(max_strangers=2)
    peers = [Peer() for _ in range(4)]
    for index, peer in enumerate(peers):
        judge.enter(peer, Origin(str(index)))
    assert [peer.is_aborted for peer in peers] == [True, True, False, False]


def test_who_has_said_hello_never_goes_for_a_stranger():
    judge = admission(max_strangers=1)
    member, first, second = Peer(), Peer(), Peer()
    judge.enter(member, Origin("a"))
    judge.greet(member)
    judge.enter(first, Origin("b"))
    judge.enter(second, Origin("c"))
    assert (member.is_aborted, first.is_aborted, second.is_aborted) == (False, True, False)


def test_where_descriptors_are_scarce_a_stranger_makes_room_for_the_next():
    judge = admission()
    peers = [Peer() for _ in range(3)]
    judge.enter(peers[0], Origin("a", is_scarce=True))
    assert not peers[0].is_aborted
    for peer in peers[1:]:
        judge.enter(peer, Origin("a", is_scarce=True))
    assert [peer.is_aborted for peer in peers] == [True, True, False]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.9", [], "192.0.2.9"),
        # Who is no proxy of ours is believed nothing.
        ("192.0.2.9", ["198.51.100.1"], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        # What the client itself wrote stands to the left of what our proxy saw.
        ("10.0.0.1", ["203.0.113.7, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.7", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ['"[2001:db8:1:2:3:4:5:6]:4711"'], "2001:db8:1:2::/64"),
        ("2001:db8::1", [], "2001:db8::/64"),
        ("2001:db8::ffff:1", [], "2001:db8::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("fd00::5", ["198.51.100.1"], "198.51.100.1"),
        (None, ["198.51.100.1"], ""),
        ("", [], ""),
    ],
)
def test_the_last_address_that_no_trusted_proxy_has_is_the_clients(peer, forwarded, client):
    assert Proxies(("10.0.0.0/8", "fd00::/8")).client_of(peer, forwarded) == client


def test_more_connections_than_descriptors_are_refused_at_the_start():
    with pytest.raises(ConfigError) as refused:
        WsRole.check(push_settings(ws_max_connections=2_000_000), Metrics())
    assert refused.value.reason == "too_few_descriptors"
    WsRole.check(push_settings(ws_max_connections=1), Metrics())


def test_a_proxy_that_is_no_network_is_a_wrong_setting():
    with pytest.raises(ConfigError) as refused:
        load_settings({"NOTIFYD_TRUSTED_PROXIES": "10.0.0.0/8, my-proxy"})
    assert "NOTIFYD_TRUSTED_PROXIES" in str(refused.value)
    read = load_settings({"NOTIFYD_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"})
    assert read.trusted_proxies == ("10.0.0.0/8", "fd00::/8")


def test_some_descriptors_are_left_for_what_is_no_connection():
    assert 0 < descriptors.places() < descriptors.descriptor_limit()
    assert not descriptors.is_scarce(0)
    assert descriptors.is_scarce(descriptors.descriptor_limit())
    assert [descriptors.share_to_free(count) for count in (1, 8, 80)] == [1, 1, 10]
