"""HTTP clients of role `api` as a process: each sends a message, and now and then asks for an inbox.

Half of the calls go over connections that are kept, half over a new one each. What gets no 202 is sent again
under the same id. Journal as that of the backend, and `bad AT_MS METHOD WHAT KIND` for each answer of 5xx
and each connection that was refused or broken off.
"""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import msgspec

from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.push.auth import issue_token
from notifyd.settings import load_settings
from tests.storm.messages import PLANS, listener
from tests.storm.records import Journal, now_ms, run_party

#: Its messages have numbers of their own.
FIRST = 10_000_000
_AGAIN_S = 0.25
_ANSWER_S = 15.0
_TOKEN_TTL_S = 24 * 3600.0
#: Of so many calls one reads an inbox.
_READS = 8


class CallConfig(msgspec.Struct, frozen=True):
    """`count` messages of `plan` to `url` at `per_s`; `listeners` and `hook_port` as for the backend."""

    seed: int
    count: int
    per_s: float
    listeners: int
    hook_port: int
    url: str
    plan: str = "all"


class Caller:
    """All clients together."""

    def __init__(self, config: CallConfig, journal: Journal) -> None:
        settings = load_settings()
        self._config = config
        self._journal = journal
        self._settings = settings
        self._sends = {
            "Authorization": f"Bearer {issue_token(settings, 'storm', ('notify:send',), _TOKEN_TTL_S)}",
            "Content-Type": "application/json",
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Make all calls, or those until `stop`."""
        clock = asyncio.get_running_loop().time
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        kept = aiohttp.ClientSession(timeout=timeout)
        fresh = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True))
        async with kept, fresh, asyncio.TaskGroup() as tasks:
            began = clock()
            for number in range(self._config.count):
                await asyncio.sleep(max(0.0, began + number / self._config.per_s - clock()))
                if stop.is_set():
                    break
                session, kind = ((kept, "kept"), (fresh, "new"))[number % 2]
                tasks.create_task(self._send(session, kind, FIRST + number))
                if number % _READS == 0:
                    tasks.create_task(self._read(kept, listener(number % self._config.listeners)))
        self._journal.write("end", 0, 0)

    async def _send(self, session: aiohttp.ClientSession, kind: str, number: int) -> None:
        config = self._config
        plan = PLANS[config.plan](config.seed, number, config.listeners)
        message_id = str(uuid.uuid4()) if plan.has_random_id else new_id()
        parts = plan.parts(message_id, config.hook_port)
        parts.pop("key", None)
        body = build_envelope(sender="storm", created_by="storm", **parts)
        handed_ms, tries = now_ms(), 0
        while True:
            tries += 1
            try:
                answer = session.post(f"{config.url}/v1/messages", data=body, headers=self._sends)
                async with answer as got:
                    told = await got.json()
                    if got.status == 202:
                        place = told["position"]
                        self._journal.write("ok", message_id, number, handed_ms, now_ms(), place, tries)
                        return
                    self._bad("POST", str(got.status), kind)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._bad("POST", type(error).__name__, kind)
            await asyncio.sleep(_AGAIN_S)

    async def _read(self, session: aiohttp.ClientSession, user: str) -> None:
        token = issue_token(self._settings, user, ttl_s=_TOKEN_TTL_S)
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with session.get(f"{self._config.url}/v1/inbox/unread", headers=headers) as got:
                await got.read()
                if got.status != 200:
                    self._bad("GET", str(got.status), "kept")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._bad("GET", type(error).__name__, "kept")

    def _bad(self, method: str, what: str, kind: str) -> None:
        self._journal.write("bad", now_ms(), method, what, kind)


async def main(config: CallConfig, journal: Journal, stop: asyncio.Event) -> None:
    await Caller(config, journal).run(stop)


if __name__ == "__main__":
    run_party(CallConfig, main)
