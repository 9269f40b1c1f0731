"""The end that always comes: a thread that ends a process which does not end by itself."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from notifyd.log import get_logger

EXIT_INTERNAL: Final = 70

#: A pipe that nobody reads any more must not keep the last words, and with them the process.
_SPEAK_S: Final = 1.0
_FRAMES: Final = 6
_NAMES: Final = 50


class Watchdog:
    """Ends the process with 70, `grace_s` after `arm`, unless `disarm` came first.

    A thread of its own, so that an event loop that is stuck does not matter. Its last line
    says what was still running (`last_words`), which tasks there were, and where the loop's
    thread stood.
    """

    def __init__(self, grace_s: float, last_words: Callable[[], list[str]]) -> None:
        self._grace_s = grace_s
        self._last_words = last_words
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        # Its `put` is reentrant: `arm` runs in a signal handler, in the midst of anything.
        self._armed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._over = threading.Event()

    def start(self) -> None:
        """Watch the loop and the thread that call this."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        threading.Thread(target=self._watch, name="notifyd-watchdog", daemon=True).start()

    def arm(self) -> None:
        """Begin the grace time; a second call changes nothing. May be called by a signal handler."""
        self._armed.put(None)

    def disarm(self) -> None:
        """The process has come to its end by itself."""
        self._over.set()
        self._armed.put(None)

    def _watch(self) -> None:
        self._armed.get()
        if self._over.wait(self._grace_s):
            return
        speaker = threading.Thread(target=self._speak, name="notifyd-last-words", daemon=True)
        speaker.start()
        speaker.join(_SPEAK_S)
        os._exit(EXIT_INTERNAL)

    def _speak(self) -> None:
        get_logger().error(
            "watchdog_ended_the_process",
            after_s=self._grace_s,
            running=_or_why(self._last_words)[:_NAMES],
            tasks=_or_why(self._tasks)[:_NAMES],
            loop_at=_or_why(self._where),
            exit_code=EXIT_INTERNAL,
        )
        sys.stderr.flush()

    def _tasks(self) -> list[str]:
        assert self._loop is not None
        return sorted(_describe(task) for task in asyncio.all_tasks(self._loop))

    def _where(self) -> list[str]:
        """Name the innermost calls of the loop's thread, the last one first."""
        frame = sys._current_frames().get(self._thread_id)
        stack = traceback.extract_stack(frame)[-_FRAMES:]
        return [f"{one.name} ({one.filename}:{one.lineno})" for one in reversed(stack)]


def _or_why(look: Callable[[], list[str]]) -> list[str]:
    # The loop may be at work meanwhile and change under our eyes what we look at.
    for _ in range(3):
        try:
            return look()
        except RuntimeError as error:
            failure = error
    return [f"unknown: {failure}"]


def _describe(task: asyncio.Task[Any]) -> str:
    frames: list[FrameType] = task.get_stack(limit=1)
    name = getattr(task.get_coro(), "__qualname__", task.get_name())
    return f"{name}:{frames[0].f_lineno}" if frames else name
