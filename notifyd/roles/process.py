"""One process of notifyd: its servers, its producer, its roles, and an end that always comes.

Signals: the first SIGTERM or SIGINT drains, the second SIGINT ends at once. A watchdog in a
thread of its own ends the process with 70 after the grace time, also when the event loop hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

import uvloop

from notifyd.errors import PermanentError
from notifyd.http.health import Health
from notifyd.http.server import HttpServer, admin_app, public_app
from notifyd.log import configure_logging, get_logger
from notifyd.message.envelope import Limits
from notifyd.metrics import Metrics
from notifyd.roles.context import Role, RoleContext
from notifyd.roles.names import describe_roles
from notifyd.settings import Settings
from notifyd.stream.producer import Producer
from notifyd.stream.topics import Topics, read_incarnation
from notifyd.version import VERSION

EXIT_INTERNAL: Final = 70

_PUBLIC_ROLES: Final = frozenset({"ws", "api"})
_T = TypeVar("_T")


def run(settings: Settings, roles: Sequence[str]) -> int:
    """Run `roles` until a signal ends them; returns the exit code.

    Blocks, and owns the event loop and the signals of the process. Raises `NotifydError` for
    what a person has to mend: a port in use, a refused password, missing topics.
    """
    configure_logging(settings, pod=settings.pod_name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Process(settings, roles).main())


class _Stopped(Exception):
    """A signal came before the process had started."""


class _Process:
    def __init__(self, settings: Settings, roles: Sequence[str]) -> None:
        self._settings = settings
        self._names = roles
        self._log = get_logger()
        self._metrics = Metrics()
        self._health = Health(self._metrics)
        self._roles: list[Role] = []
        self._signals = 0
        self._stop = asyncio.Event()
        self._failure: Exception | None = None

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        async with AsyncExitStack() as stack:
            admin, public = await self._listen(stack)
            self._log.info(
                "listening",
                roles=describe_roles(self._names),
                version=VERSION,
                admin_port=admin.port,
                http_port=public.port if public else None,
            )
            watching = asyncio.create_task(self._health.watch_loop())
            stack.push_async_callback(_end, watching)
            try:
                await self._until_stopped(self._start(stack, public))
                self._log.info("started", roles=describe_roles(self._names))
                await self._stop.wait()
            except _Stopped:
                pass
            self._health.is_stopping = True
            await self._stop_roles()
        if self._failure is not None:
            raise self._failure
        self._log.info("stopped", roles=describe_roles(self._names))
        return 0

    # Start

    async def _listen(self, stack: AsyncExitStack) -> tuple[HttpServer, HttpServer | None]:
        """Take both ports; the admin server answers from here on."""
        settings = self._settings
        admin = HttpServer(settings.admin_host, settings.admin_port, setting="NOTIFYD_ADMIN")
        admin.bind()
        stack.push_async_callback(admin.stop)
        public = None
        if _PUBLIC_ROLES & set(self._names):
            public = HttpServer(settings.http_host, settings.http_port, setting="NOTIFYD_HTTP")
            public.bind()
            stack.push_async_callback(public.stop)
        await admin.start(admin_app(self._health, self._metrics))
        return admin, public

    async def _start(self, stack: AsyncExitStack, public: HttpServer | None) -> None:
        settings, metrics = self._settings, self._metrics
        producer = Producer(settings, metrics, client_id=f"notifyd-{settings.pod_name}")
        await producer.start()
        stack.push_async_callback(producer.stop, settings.drain_s)
        # Only what serves the public port counts for it: a push must not wait for a database.
        app = public_app(lambda: self._health.waits_for(_PUBLIC_ROLES))
        context = RoleContext(
            settings=settings,
            metrics=metrics,
            producer=producer,
            topics=Topics.of(settings),
            incarnation=await read_incarnation(settings),
            limits=Limits.of(settings),
            public=app,
            fail=self._fail,
        )
        for name in self._names:
            self._roles.append(_build(name)(context))
        self._health.started(list(self._roles))
        if public is not None:
            await public.start(app)
        for role in self._roles:
            await role.start()

    async def _until_stopped(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work`, unless a signal or a failure comes first."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await _end(task)
            raise _Stopped
        await _end(stop)
        return task.result()

    # End

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1 and number == signal.SIGINT:
            os._exit(128 + number)
        if self._signals > 1:
            return
        self._log.info("stopping", signal=signal.Signals(number).name)
        self._begin_stop()

    def _fail(self, error: Exception) -> None:
        """End the process with `error`; called by engines and roles."""
        if self._failure is None:
            self._failure = error
            self._log.error("role_failed", error=str(error), reason=getattr(error, "reason", "internal"))
            self._begin_stop()

    def _begin_stop(self) -> None:
        self._health.is_stopping = True
        self._stop.set()
        _start_watchdog(self._settings.grace_s, self._last_words)

    async def _stop_roles(self) -> None:
        if not self._stop.is_set():
            self._begin_stop()
        results = await asyncio.gather(*(role.stop() for role in self._roles), return_exceptions=True)
        for role, result in zip(self._roles, results, strict=True):
            if isinstance(result, BaseException):
                self._log.error("stop_failed", role=role.name, exc_info=result)

    def _last_words(self) -> list[str]:
        return [f"{role.name}: {what}" for role in self._roles for what in role.running]


def _build(name: str) -> Callable[[RoleContext], Role]:
    """Load a role; a process loads only what it runs."""
    if name == "deliver":
        from notifyd.roles.deliver import DeliverRole

        return DeliverRole
    if name == "persist":
        from notifyd.roles.persist import PersistRole

        return PersistRole
    if name == "ws":
        from notifyd.roles.ws import WsRole

        return WsRole
    raise PermanentError(f"there is no role {name!r}", reason="unknown_role")


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _start_watchdog(grace_s: float, last_words: Callable[[], list[str]]) -> None:
    def watch() -> None:
        time.sleep(grace_s)
        running = last_words()
        get_logger().error("watchdog_ended_the_process", after_s=grace_s, running=running[:50], exit_code=70)
        sys.stderr.flush()
        os._exit(EXIT_INTERNAL)

    threading.Thread(target=watch, name="notifyd-watchdog", daemon=True).start()
