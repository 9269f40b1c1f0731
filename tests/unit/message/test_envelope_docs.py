"""The reference page says what the code does."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from notifyd.message.envelope import Limits, decode, find_faults
from notifyd.message.text import MAX_DEPTH
from notifyd.message.versions import NEWEST, names_of

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "envelope.md").read_text()
AT_MS = int(dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC).timestamp() * 1000)


def test_its_example_is_good() -> None:
    value = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1].encode()
    assert find_faults(value, timestamp_ms=AT_MS, limits=Limits()) == []
    assert decode(value, timestamp_ms=AT_MS, limits=Limits()).content.type == "order.shipped"


def test_it_names_every_field_of_content() -> None:
    for name in names_of(NEWEST.schema):
        assert f"`{name}`" in PAGE


def test_it_tells_the_limits_as_they_are() -> None:
    limits = Limits()
    for number in (limits.max_bytes, limits.max_recipients, int(limits.retention_s), int(limits.max_ahead_s)):
        assert f"{number:,}" in PAGE
    assert f"At most {MAX_DEPTH} levels" in PAGE
