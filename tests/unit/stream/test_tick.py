"""What comes in a short time goes on together."""

from __future__ import annotations

import asyncio

from notifyd.stream.tick import Tick


async def test_who_comes_within_a_tick_goes_on_together() -> None:
    tick, gone = Tick(0.01), []

    async def come(name: str) -> None:
        await tick.wait()
        gone.append(name)

    for names in ("ab", "c"):
        tasks = [asyncio.create_task(come(name)) for name in names]
        await asyncio.sleep(0)
        tasks[0].cancel() if names == "ab" else None
        await asyncio.gather(*tasks, return_exceptions=True)
    # Who gave up takes nobody along.
    assert gone == ["b", "c"]
