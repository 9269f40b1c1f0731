"""Columns as the text that PostgreSQL reads."""

from __future__ import annotations

import pytest

from notifyd.store import arrays
from notifyd.store.errors import RowError


def test_numbers_need_no_quotes_and_none_is_null() -> None:
    assert arrays.of_plain([1, 2]) == "{1,2}"
    assert arrays.of_optional([1, None]) == "{1,NULL}"
    assert arrays.of_optional([0, None]) == "{0,NULL}"
    assert arrays.of_optional([None, None]) == "{}"
    assert arrays.of_plain([]) == arrays.of_texts([]) == "{}"


def test_texts_are_quoted_whatever_is_in_them() -> None:
    assert arrays.of_texts(["a", "", 'q"', "b\\", "{,}", "NULL"]) == r'{"a","","q\"","b\\","{,}","NULL"}'


def test_a_nul_cannot_move_texts_from_one_row_to_the_next() -> None:
    with pytest.raises(RowError):
        arrays.of_texts(["a\0b", "c"])


def test_only_ascii_goes_as_text() -> None:
    assert arrays.of_bytes(b'{"a": "\\n"}') == '{"a": "\\\\n"}'
    for value in ("é".encode(), b"\xff", b"a\0"):
        assert arrays.of_bytes(value) is value
