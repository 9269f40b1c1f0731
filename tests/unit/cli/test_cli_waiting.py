"""What `notifyd send --wait` makes of the traces that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from notifyd.cli.waiting import wait_for_end
from notifyd.producer import Confirmation
from notifyd.settings import load_settings

MESSAGE = Confirmation("m1", "notifyd.messages", 3, 7, 0)
SETTINGS = load_settings({}, database_url="postgresql://nobody@127.0.0.1:1/x")


def trace(state: str, *deliveries: tuple[str, str, str, str | None], position: str = "3:7") -> dict[str, Any]:
    return {
        "id": "m1",
        "state": state,
        "position": position,
        "deliveries": [
            {"user": user, "channel": channel, "state": stage, "events": [{"stage": stage, "reason": reason}]}
            for user, channel, stage, reason in deliveries
        ],
    }


class FakeDatabase:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.is_open = False

    async def start(self, wait: bool = True) -> None:
        assert not wait

    async def stop(self) -> None:
        pass


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the reader see these traces one after the other, the last one for ever."""

    def install(*found: dict[str, Any] | None) -> None:
        left: Iterator[dict[str, Any] | None] = iter(found)

        async def read_trace(database: Any, message_id: str) -> dict[str, Any] | None:
            return next(left, found[-1])

        monkeypatch.setattr("notifyd.store.trace.read_trace", read_trace)

    monkeypatch.setattr("notifyd.store.pool.Database", FakeDatabase)
    return install


async def test_it_waits_until_the_message_is_done(
    traces: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    traces(None, trace("pending", ("a", "ws", "pending", None)), trace("done", ("a", "ws", "acked", None)))
    assert await wait_for_end(SETTINGS, [MESSAGE], as_json=True, limit_s=30)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"id": "m1", "position": "3:7", "state": "done"}
    assert captured.err == ""


@pytest.mark.parametrize(("state", "stage"), [("dead", "dead"), ("done", "expired"), ("done", "failed")])
async def test_an_end_that_nobody_wanted_is_told_with_its_reason(
    traces: Callable[..., None], capsys: pytest.CaptureFixture[str], state: str, stage: str
) -> None:
    traces(trace(state, ("a", "ws", "acked", None), ("bob", "webhook", stage, "http_404")))
    assert not await wait_for_end(SETTINGS, [MESSAGE], as_json=False, limit_s=30)
    captured = capsys.readouterr()
    assert captured.out == f"m1 3:7 {state}\n"
    assert f"webhook to bob is {stage} (http_404)" in captured.err


async def test_when_the_time_is_over_it_says_where_the_message_hangs(
    traces: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    traces(trace("pending", ("a", "ws", "pending", None)))
    assert not await wait_for_end(SETTINGS, [MESSAGE], as_json=False, limit_s=0)
    captured = capsys.readouterr()
    assert captured.out == "m1 3:7 pending\n"
    assert "ws to a is pending" in captured.err


async def test_an_id_that_was_used_before_is_told(
    traces: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    traces(trace("done", ("a", "ws", "acked", None), position="1:2"))
    assert await wait_for_end(SETTINGS, [MESSAGE], as_json=False, limit_s=30)
    assert "was sent before, at 1:2" in capsys.readouterr().err
