"""Published content versions never change: their files are held to their bytes, casts included."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import msgspec
import pytest

from notifyd.message.content import Content
from notifyd.message.envelope import Limits, decode, find_faults, public_envelope
from notifyd.message.versions import VERSIONS, cast, names_of

GOLDEN = Path(__file__).parents[2] / "golden"

# A published file is history: add files, never change one or its sum.
SHA256 = {
    "content-1.0-as-1.1.json": "426d4f10b85f31e2c8c536619c5c096c06c7eeb9f2d6eaff6643d043fe726562",
    "content-1.0.json": "0ff7ccaba4342a362347245ecbf53925d6c3a42f4874b3b643754c9087f4f56b",
    "content-1.1-as-1.0.json": "9711c9f3ac79b039941d4763fbbda2f75fe2c73c30ba5d099ff89c69067f9b16",
    "content-1.1.json": "46580b748440dd703d3019d2c82050d2ef09174db27a2ccf7a4d3393ac2970ef",
    "envelope-full.json": "ea564ed8fd36d4eef21d8d0546c6fce90fea22aa8b3e79cf1218a719b14eca35",
    "envelope-full.public.json": "697ad26c7dd8df12e8707388a5b21ea471775936bafa3e640a53fa2941f299d7",
    "envelope-minimal.json": "5f1d86151edcaab7b47550a76c07d1183a0b015efa14d887901bc1e810b234ee",
    "envelope-minimal.public.json": "726666a2105c24595b8483fc65ebfc928bc381f94e857046ac239e709a3d0a7f",
}
AT_MS = int(dt.datetime(2025, 11, 22, 12, tzinfo=dt.UTC).timestamp() * 1000)


def content_of(raw: bytes, at: str) -> Content:
    """Read a content as it would be read within an envelope of that time."""
    at_ms = int(dt.datetime.fromisoformat(at).timestamp() * 1000)
    value = (
        b'{"from":"a","UUID":"7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6","toUserIds":["alice"],"createBy":"b",'
        b'"createDateTime":"' + at.encode() + b'","content":' + raw + b"}"
    )
    return decode(value, timestamp_ms=at_ms, limits=Limits()).content


def test_no_golden_file_changed_came_or_went_unnoticed() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDEN.glob("*.json")}
    assert found == SHA256


def test_every_published_version_has_its_golden_file() -> None:
    for version in VERSIONS.values():
        assert f"content-{version.name}.json" in SHA256


@pytest.mark.parametrize("version", VERSIONS.values(), ids=lambda v: v.name)
def test_a_golden_content_fills_every_field_of_its_schema(version) -> None:
    raw = (GOLDEN / f"content-{version.name}.json").read_bytes()
    msgspec.json.decode(raw, type=version.schema)
    assert names_of(version.schema) <= msgspec.json.decode(raw).keys()


@pytest.mark.parametrize(("own", "reads"), [("1.0", "1.1"), ("1.1", "1.0")])
def test_a_cast_gives_the_golden_bytes(own: str, reads: str) -> None:
    raw = (GOLDEN / f"content-{own}.json").read_bytes()
    assert cast(raw, [reads]) == (GOLDEN / f"content-{own}-as-{reads}.json").read_bytes().rstrip(b"\n")


@pytest.mark.parametrize("reads", ["1", "own"])
@pytest.mark.parametrize("own", ["1.0", "1.1"])
def test_who_reads_the_major_or_this_very_version_gets_the_bytes_as_they_are(own: str, reads: str) -> None:
    raw = (GOLDEN / f"content-{own}.json").read_bytes()
    assert cast(raw, [own if reads == "own" else reads]) is raw


def test_content_1_0_reads_as_it_always_did() -> None:
    content = content_of((GOLDEN / "content-1.0.json").read_bytes(), "2026-11-23T10:00:00Z")
    assert (content.version, content.type) == ("1.0", "order.shipped")
    assert content.title == "On its way — 配送中"
    assert content.channels == ("ws", "webhook")
    assert content.ttl_s == 900
    assert content.not_before_ms == 1795431600000
    assert content.until_ms == 1795478400000
    assert content.contacts is not None
    assert list(content.contacts) == ["alice"]
    assert (content.url, content.collapse_key, content.critical, content.fallback) == (
        None,
        None,
        False,
        None,
    )


def test_content_1_1_reads_as_it_always_did() -> None:
    content = content_of((GOLDEN / "content-1.1.json").read_bytes(), "2026-11-23T10:00:00Z")
    assert (content.version, content.url, content.collapse_key) == (
        "1.1",
        "https://example.com/orders/7",
        "order-7",
    )
    assert content.critical is False
    assert content.fallback is not None
    assert (content.fallback.after_s, content.fallback.channels) == (900, ("email",))
    assert content.data is not None
    assert b"12345678901234567890" in bytes(content.data)


@pytest.mark.parametrize("name", ["full", "minimal"])
def test_a_golden_envelope_is_good_and_shows_clients_the_golden_bytes(name: str) -> None:
    value = (GOLDEN / f"envelope-{name}.json").read_bytes()
    assert find_faults(value, timestamp_ms=AT_MS, limits=Limits()) == []
    message = decode(value, timestamp_ms=AT_MS, limits=Limits())
    assert public_envelope(message) == (GOLDEN / f"envelope-{name}.public.json").read_bytes().rstrip(b"\n")


def test_the_full_envelope_reads_as_it_always_did() -> None:
    value = (GOLDEN / "envelope-full.json").read_bytes()
    message = decode(value, timestamp_ms=AT_MS, limits=Limits())
    assert message.id == "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11"
    assert (message.sender, message.created_by) == ("orders", "orders-svc")
    assert message.recipients == ("alice", "bob")
    assert message.day == dt.date(2025, 11, 22)
    assert message.is_time_ordered
    assert message.raw is value
    assert message.digest == hashlib.sha256(value).hexdigest()[:32]
    assert message.content.body == "café 🚀"


def test_the_minimal_envelope_takes_its_day_from_its_date() -> None:
    message = decode((GOLDEN / "envelope-minimal.json").read_bytes(), timestamp_ms=AT_MS, limits=Limits())
    assert message.day == dt.date(2025, 11, 22)
    assert message.created_at_ms == 1763769600000
    assert not message.is_time_ordered
    assert message.content.channels == ("ws",)
