"""Every role in this process, on surroundings of its own, until a signal comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

from notifyd.dev.infra import DevSurroundings
from notifyd.errors import TransientError

_LOOK_EVERY_S = 0.25
#: Readiness takes about two seconds; after this long a person wants to know what is missing.
_TELL_AFTER_S = 20.0


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that what it started is ended too.

    The interrupt itself ends here: to be told to end is a good end.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def wait_for_end(surroundings: DevSurroundings) -> None:
    """Block until a signal comes; `TransientError` when a part of the surroundings ended by itself."""
    never = threading.Event()
    while not never.wait(_LOOK_EVERY_S):
        _raise_if_dead(surroundings.find_dead())


def run_roles(surroundings: DevSurroundings, *, on_ready: Callable[[], None]) -> int:
    """Run all roles until a signal ends them; return their exit code.

    `on_ready` is called once, from another thread, when `/readyz` says 200. When broker or
    PostgreSQL end by themselves the roles are ended too, with a `TransientError` that says so.
    """
    from notifyd.dev.site import add_dev_site
    from notifyd.roles.names import ROLES
    from notifyd.roles.process import run

    settings = surroundings.settings()
    watch = _Watch(surroundings, f"http://127.0.0.1:{settings.admin_port}/readyz", on_ready)
    watch.start()
    try:
        code = run(settings, tuple(ROLES), also_serve=partial(add_dev_site, settings=settings))
    finally:
        watch.end()
    _raise_if_dead(watch.dead)
    return code


class _Watch(threading.Thread):
    """Looks at readiness, then at the children, beside the roles that own the main thread."""

    def __init__(self, surroundings: DevSurroundings, url: str, on_ready: Callable[[], None]) -> None:
        super().__init__(name="notifyd-dev-watch", daemon=True)
        self.dead: str | None = None
        self._surroundings = surroundings
        self._url = url
        self._on_ready = on_ready
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()
        self.join(5.0)

    def run(self) -> None:
        is_ready = False
        waited_s = 0.0
        while not self._over.wait(_LOOK_EVERY_S):
            self.dead = self._surroundings.find_dead()
            if self.dead:
                print(f"dev: {self.dead}; ending", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if is_ready:
                continue
            missing = _missing(self._url)
            if missing == "":
                is_ready = True
                self._on_ready()
            waited_s += _LOOK_EVERY_S
            if waited_s % _TELL_AFTER_S < _LOOK_EVERY_S and missing:
                print(f"dev: not ready yet, waits for {missing}", file=sys.stderr, flush=True)


def _missing(url: str) -> str | None:
    """Return what the roles wait for, "" when nothing, None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return ""
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return ", ".join(json.loads(error.read())["waits_for"]) or "its roles"
        return "its roles"
    except OSError:
        return None


def _raise_if_dead(dead: str | None) -> None:
    if dead:
        raise TransientError(dead, reason="surroundings_ended", remedy="start `notifyd dev` again")
