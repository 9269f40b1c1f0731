"""What messages say at rest: sealed and opened, and never opened wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifyd.content_keys import new_content_key, parse_content_keys
from notifyd.errors import ConfigError
from notifyd.settings import load_settings
from notifyd.store.cipher import ContentCipher, ContentKeyError, key_of

ONE, OTHER = "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c12"
OLD, NEW = {"k1": b"1" * 32}, {"k2": b"2" * 32}

key_ids = st.text("abcz019._-", min_size=1, max_size=32)
all_keys = st.dictionaries(key_ids, st.binary(min_size=32, max_size=32), min_size=1, max_size=4)
message_ids = st.uuids().map(str)


@settings(max_examples=50)
@given(all_keys, message_ids, st.binary(max_size=300))
def test_what_was_sealed_comes_back_whichever_key_is_first_by_then(
    keys: dict[str, bytes], message_id: str, raw: bytes
) -> None:
    first = next(iter(keys))
    sealed = ContentCipher(keys).seal(message_id, raw)
    assert key_of(sealed) == first
    if len(raw) >= 8:  # shorter ones may be there by chance
        assert raw not in sealed[2 + len(first) :]
    rotated = dict(reversed(keys.items()))
    assert ContentCipher(rotated).open(message_id.upper(), sealed) == raw


@given(st.binary(max_size=100).map(lambda body: b'{"UUID":' + body))
def test_without_keys_it_is_stored_as_it_is_and_stays_readable_with_keys(raw: bytes) -> None:
    assert ContentCipher({}).seal(ONE, raw) == raw
    assert ContentCipher(OLD).open(ONE, raw) == raw
    assert key_of(raw) is None


@settings(max_examples=50)
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_never_taken_for_content(place: int, change: int) -> None:
    cipher = ContentCipher(OLD)
    sealed = bytearray(cipher.seal(ONE, b'{"title": "Hi"}'))
    place %= len(sealed)
    sealed[place] ^= change
    if place == 0:  # no longer marked as sealed: that is no JSON, and no reader takes it for any
        assert cipher.open(ONE, bytes(sealed)) == bytes(sealed)
        return
    with pytest.raises(ContentKeyError):
        cipher.open(ONE, bytes(sealed))


def test_a_piece_of_it_is_never_taken_for_content() -> None:
    cipher = ContentCipher(OLD)
    sealed = cipher.seal(ONE, b'{"title": "Hi"}')
    for size in range(2, len(sealed)):
        with pytest.raises(ContentKeyError):
            cipher.open(ONE, sealed[:size])


def test_the_content_of_one_message_does_not_open_as_another_s() -> None:
    cipher = ContentCipher(OLD)
    with pytest.raises(ContentKeyError):
        cipher.open(OTHER, cipher.seal(ONE, b"{}"))


def test_equal_messages_do_not_look_equal() -> None:
    cipher = ContentCipher(OLD)
    assert cipher.seal(ONE, b"{}") != cipher.seal(ONE, b"{}")


def test_a_key_that_is_missing_or_wrong_is_named_and_how_to_mend_it() -> None:
    sealed = ContentCipher(OLD).seal(ONE, b"{}")
    with pytest.raises(ContentKeyError) as missing:
        ContentCipher(NEW).open(ONE, sealed)
    assert (missing.value.key_id, missing.value.reason) == ("k1", "content_key_missing")
    for words in (ONE, "'k1'", "it has k2", "NOTIFYD_CONTENT_KEYS"):
        assert words in str(missing.value)
    with pytest.raises(ContentKeyError) as wrong:
        ContentCipher({"k1": b"x" * 32}).open(ONE, sealed)
    assert (wrong.value.key_id, wrong.value.reason) == ("k1", "content_key_wrong")


def test_keys_are_read_in_order_and_new_ones_are_different() -> None:
    one, two = new_content_key("b"), new_content_key("a")
    assert list(parse_content_keys(f" {one}, {two},")) == ["b", "a"]
    assert new_content_key("b") != one
    with pytest.raises(ValueError, match="id has 1 to 32"):
        new_content_key("Not an id")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "holds no key"),
        (",", "holds no key"),
        ("c2VjcmV0", "entry 1 is not id:key"),
        ("K1:c2VjcmV0", "entry 1 is not id:key"),
        ("k1:c2VjcmV0", "'k1' is not 32 bytes in base64"),
        ("k1:c2VjcmV0!", "'k1' is not 32 bytes in base64"),
        pytest.param(f"{new_content_key('a')},k2", "entry 2 is not id:key", id="the second"),
        (",".join(["k1:" + "A" * 43 + "="] * 2), "'k1' is there twice"),
    ],
)
def test_a_setting_that_is_wrong_says_which_entry_and_tells_no_key(text: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"NOTIFYD_CONTENT_KEYS": text})
    assert "NOTIFYD_CONTENT_KEYS" in str(caught.value)
    assert rule in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
