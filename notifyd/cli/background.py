"""Read what blocks beside a running loop, so that Ctrl-C does not wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


async def in_background(items: Iterator[T]) -> AsyncIterator[T]:
    """Yield what an iterator yields that may block, from a thread that nobody waits for at the end.

    `asyncio.to_thread` would not do: at its end the loop joins that thread, and a read of a terminal
    does not return.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    room = threading.Semaphore(2)

    def put(kind: str, value: Any) -> None:
        room.acquire()
        try:
            loop.call_soon_threadsafe(queue.put_nowait, (kind, value))
        except RuntimeError:
            raise SystemExit from None  # the loop is gone, and whoever wanted this with it

    def read() -> None:
        try:
            for item in items:
                put("item", item)
        except Exception as error:  # it belongs to the reader of this iterator, and goes to it
            put("error", error)
        else:
            put("end", None)

    threading.Thread(target=read, daemon=True, name="notifyd-input").start()
    while True:
        kind, value = await queue.get()
        room.release()
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value
