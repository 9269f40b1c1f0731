"""One process of notifyd: its servers, its producer, its roles, and an end that always comes.

Signals: the first SIGTERM or SIGINT drains, a later SIGINT ends at once. A watchdog in a thread
of its own ends the process with 70 after the grace time, also when the event loop hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

import uvloop
from aiohttp import web

from notifyd.errors import PermanentError, TransientError
from notifyd.http.health import Health
from notifyd.http.server import HttpServer, PublicSite, admin_app
from notifyd.log import configure_logging, get_logger, is_json
from notifyd.message.envelope import Limits
from notifyd.metrics import Metrics
from notifyd.roles.collector import calm_collector
from notifyd.roles.context import Role, RoleContext, nobody_to_send_away
from notifyd.roles.names import describe_roles
from notifyd.roles.watchdog import Watchdog
from notifyd.settings import Settings
from notifyd.stream.clients import backoff_s, bootstrap_hosts
from notifyd.stream.producer import Producer
from notifyd.stream.topics import Topics, read_incarnation
from notifyd.tracing import Tracing
from notifyd.version import VERSION

_PUBLIC_ROLES: Final = frozenset({"ws", "api"})
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: How long a task may take to end before it is told once more.
_CANCEL_AGAIN_S: Final = 1.0
_T = TypeVar("_T")


def run(
    settings: Settings,
    roles: Sequence[str],
    *,
    also_serve: Callable[[web.Application], None] | None = None,
) -> int:
    """Run `roles` until a signal ends them; returns the exit code.

    `also_serve` adds routes to the public port that belong to no role: `notifyd dev` has some.
    Blocks, and owns the event loop and the signals of the process. Raises `NotifydError` for
    what a person has to mend: a port in use, a refused password, missing topics.
    """
    configure_logging(settings, pod=settings.pod_name)
    process = _Process(settings, roles, also_serve)
    try:
        with _signals_kept(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(process.main())
    finally:
        # Not before the loop is closed: a task that does not hear its cancellation keeps it open.
        process.watchdog.disarm()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give the signals back to whom they belonged, `notifyd dev` for example."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopped(Exception):
    """A signal came before the process had started."""


class _Process:
    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str],
        also_serve: Callable[[web.Application], None] | None,
    ) -> None:
        self._settings = settings
        self._names = roles
        self._also_serve = also_serve
        self._log = get_logger()
        self._metrics = Metrics()
        self._tracing: Tracing | None = None
        self._health = Health(self._metrics)
        self._roles: list[Role] = []
        self._signals = 0
        self._stop = asyncio.Event()
        self._stopped_at = 0.0
        self._is_started = False
        self._failure: Exception | None = None
        self.watchdog = Watchdog(settings.grace_s, self._last_words)

    async def main(self) -> int:
        self._check()
        self.watchdog.start()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
            # The loop's callback waits for its turn, which a handler that blocks the loop never
            # gives; this one does not.
            signal.signal(number, self._on_signal_at_once)
            signal.siginterrupt(number, False)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_tracing)
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
                calm_collector()
                self._is_started = True
                self._log.info("started", roles=describe_roles(self._names))
                await self._stop.wait()
            except _Stopped:
                pass
            except Exception as error:  # what began is ended in order, whatever the rest failed with
                self._fail(error)
            await self._stop_roles()
        if self._failure is not None:
            raise self._failure
        left = self._last_words()
        if left:
            self._log.error("does_not_end", running=left[:50], detail="the watchdog will end the process")
        else:
            self._log.info("stopped", roles=describe_roles(self._names))
        return 0

    # Start

    def _check(self) -> None:
        """Judge the settings before anything is begun or waited for."""
        bootstrap_hosts(self._settings)
        self._tracing = Tracing.of(self._settings, describe_roles(self._names))
        for name in self._names:
            _role_class(name).check(self._settings, self._metrics)

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
        stack.push_async_callback(self._stop_producer, producer)
        health = self._health
        site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
        context = RoleContext(
            settings=settings,
            metrics=metrics,
            producer=producer,
            topics=Topics.of(settings),
            incarnation=await self._incarnation(),
            limits=Limits.of(settings),
            public=site.app,
            fail=self._fail,
            send_away=public.send_away if public is not None else nobody_to_send_away,
            tracing=self._tracing,
        )
        for name in self._names:
            self._roles.append(_role_class(name)(context))
            site.claim(name)
        if self._also_serve is not None:
            self._also_serve(site.app)
        self._health.started(list(self._roles))
        if public is not None:
            await public.start(site.app)
        await self._start_roles()

    async def _incarnation(self) -> str:
        """Read it, however often the broker goes away meanwhile."""
        attempt = 0
        while True:
            try:
                return await read_incarnation(self._settings)
            except TransientError as error:
                self._log.warning("waiting_for_broker", detail=error.message, remedy=error.remedy)
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1

    async def _start_roles(self) -> None:
        """Start all at once: what one of them waits for is no reason for the others to wait."""
        starts = [asyncio.create_task(role.start(), name=f"start {role.name}") for role in self._roles]
        try:
            done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            for start in done:
                start.result()
        finally:
            for start in starts:
                start.cancel()
            # The first failure is told; where another role failed of the same, nobody asks for its own.
            await asyncio.gather(*starts, return_exceptions=True)

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

    def _on_signal_at_once(self, number: int, frame: FrameType | None) -> None:
        """Run by Python itself, also while the loop is stuck: nothing here may wait or log."""
        self._signals += 1
        if self._signals > 1 and number == signal.SIGINT:
            os._exit(128 + number)
        self.watchdog.arm()

    def _on_signal(self, number: int) -> None:
        """Run by the loop."""
        if not self._stop.is_set():
            self._log.info("stopping", signal=signal.Signals(number).name)
            self._begin_stop()

    def _fail(self, error: Exception) -> None:
        """End the process with `error`; called by engines and roles."""
        if self._failure is not None:
            return
        self._failure = error
        # Who called the command gets a line of text at the end; at a terminal it would only say it twice.
        if self._is_started or is_json(self._settings):
            self._log.error("role_failed", error=str(error), reason=getattr(error, "reason", "internal"))
        self._begin_stop()

    def _begin_stop(self) -> None:
        if not self._stop.is_set():
            self._health.is_stopping = True
            self._stopped_at = time.monotonic()
            self._stop.set()
            self.watchdog.arm()

    async def _stop_roles(self) -> None:
        results = await asyncio.gather(*(role.stop() for role in self._roles), return_exceptions=True)
        for role, result in zip(self._roles, results, strict=True):
            if isinstance(result, BaseException):
                self._log.error("stop_failed", role=role.name, exc_info=result)

    async def _stop_producer(self, producer: Producer) -> None:
        spent_s = time.monotonic() - self._stopped_at
        await producer.stop(max(self._settings.stop_step_s / 2, self._settings.drain_s - spent_s))

    async def _stop_tracing(self) -> None:
        if self._tracing is not None:
            await self._tracing.stop(self._settings.stop_step_s / 2)

    def _last_words(self) -> list[str]:
        return [f"{role.name}: {what}" for role in self._roles for what in role.running]


def _role_class(name: str) -> type[Role]:
    """Load a role; a process loads only what it runs."""
    if name == "deliver":
        from notifyd.roles.deliver import DeliverRole

        return DeliverRole
    if name == "persist":
        from notifyd.roles.persist import PersistRole

        return PersistRole
    if name == "sweep":
        from notifyd.roles.sweep import SweepRole

        return SweepRole
    if name == "ws":
        from notifyd.roles.ws import WsRole

        return WsRole
    if name == "api":
        from notifyd.roles.api import ApiRole

        return ApiRole
    raise PermanentError(f"there is no role {name!r}", reason="unknown_role")


async def _end(task: asyncio.Task[Any]) -> None:
    # Again and again: libraries wait with `asyncio.wait_for`, which before Python 3.12 keeps a
    # cancellation to itself where what it waits for ends at that moment.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
