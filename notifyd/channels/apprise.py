"""The channel `apprise`: a hundred chat and push services by way of the library of that name."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from notifyd.channels.outcomes import combine
from notifyd.channels.port import Delivery
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.errors import ConfigError, PermanentError
from notifyd.message.content import Content
from notifyd.settings import Settings

#: A wait for a thread lasts this long at most.
_MAX_WAIT_S: Final = 1.0


class AppriseChannel:
    """The channel `apprise`.

    It calls services by threads of its own, `apprise_threads` at most: the library blocks. It tells whether a
    service took the message, and not why one did not, so that is tried again. A call that outlives
    `apprise_timeout_s` counts as failed and keeps its thread until the library gives up by itself.

    Only schemes on NOTIFYD_APPRISE_SCHEMES are called: the library goes wherever a URL leads, private
    addresses included. Raises `ConfigError` where it is not installed.
    """

    name = "apprise"

    def __init__(self, settings: Settings) -> None:
        try:
            import apprise
        except ImportError:
            raise ConfigError(
                "NOTIFYD_APPRISE_SCHEMES is set, and the library apprise is not installed",
                reason="not_installed",
                remedy="pip install 'notifyd[apprise]'",
            ) from None
        # Its lines name services and, at lower levels, addresses.
        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        self._library: Any = apprise
        self._asset = apprise.AppriseAsset(app_id="notifyd", secure_logging=True, allow_templates=False)
        self._schemes = frozenset(settings.apprise_schemes)
        self._timeout_s = settings.apprise_timeout_s
        self._count = settings.apprise_threads
        self._places = asyncio.Semaphore(settings.apprise_threads)
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Make the threads."""
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="apprise")

    async def stop(self) -> None:
        """Wait for no thread: what still runs ends with the process."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Call every service of `contact`, one after another; a repeated one only once."""
        if self._threads is None:
            raise PermanentError("the channel is not started", reason="not_started")
        if not contact.apprise:
            return Skip("no_address")
        outcomes: dict[int, Outcome] = {}
        for index, url in enumerate(contact.apprise):
            if url not in contact.apprise[:index]:
                outcomes[index] = await self._call(self._threads, url, delivery.message.content)
        return combine(self.name, outcomes)

    async def _call(self, threads: ThreadPoolExecutor, url: str, content: Content) -> Outcome:
        scheme = url.partition("://")[0].lower()
        if scheme not in self._schemes:
            return Dead("scheme_refused", "the scheme is not on NOTIFYD_APPRISE_SCHEMES")
        service = self._library.Apprise.instantiate(url, asset=self._asset)
        if service is None:
            return Dead("bad_url", "the library cannot read the URL")
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            return Retry("host_busy", detail="all threads are in use", counts=False)
        body = "\n\n".join(part for part in (content.body, content.url) if part) or content.title
        call = asyncio.get_running_loop().run_in_executor(
            threads, lambda: service.notify(title=content.title, body=body)
        )
        # The place is the thread's, however long that takes.
        call.add_done_callback(self._on_end)
        try:
            async with asyncio.timeout(self._timeout_s):
                is_taken = await asyncio.shield(call)
        except TimeoutError:
            return Retry("timeout", detail=f"no answer within {self._timeout_s:g} s")
        return Done(scheme) if is_taken else Retry("apprise_failed", detail=f"{scheme} did not take it")

    def _on_end(self, call: asyncio.Future[Any]) -> None:
        self._places.release()
        if not call.cancelled():
            call.exception()  # it was told, or nobody waits any more
