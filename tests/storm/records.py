"""What the parties of a storm write down: one line each, kept in order, read again by the checker."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop

T = TypeVar("T")

_FLUSH_S = 0.5


class Journal:
    """A file that lines are appended to. `keep_flushed` bounds what is not on it yet."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1 << 16, encoding="utf-8")

    def write(self, *parts: object) -> None:
        """Append one line of parts that hold no space."""
        self._file.write(" ".join(map(str, parts)) + "\n")

    async def keep_flushed(self) -> None:
        """Flush now and then; ends when cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def lines_of(path: Path) -> Iterator[list[str]]:
    """Yield the parts of each whole line; nothing where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield line.split()


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def run_party(config: type[T], main: Callable[[T, Journal, asyncio.Event], Awaitable[None]]) -> None:
    """Run one party as a process: `CONFIG.json JOURNAL`; SIGTERM sets the event that ends it."""

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        journal = Journal(Path(sys.argv[2]))
        flushing = asyncio.create_task(journal.keep_flushed())
        try:
            await main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=config), journal, stop)
        finally:
            flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await flushing
            journal.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def write_config(path: Path, config: Any) -> Path:
    """Write the configuration of a party."""
    path.write_bytes(msgspec.json.encode(config))
    return path
