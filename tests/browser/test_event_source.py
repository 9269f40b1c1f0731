"""The few lines of the docs for an `EventSource`, in a real browser, from another origin than the server."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.conftest import ROOT
from tests.fixtures.own_thread import OwnThread
from tests.fixtures.push import PushServer, make_message, running_push_server


class Site:
    """A page on a server of its own. `origin` is what its requests to others name."""

    def __init__(self, html: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = html().encode() if self.path == "/" else b""
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Background(OwnThread):
    """A push server in a thread of its own: Playwright has this one."""

    server: PushServer

    def __init__(self, **overrides: Any) -> None:
        self._overrides = overrides

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        async with running_push_server(**self._overrides) as self.server:
            yield

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the server's loop."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)


@pytest.fixture
def page_of_another_origin() -> Iterator[tuple[Site, Background]]:
    code = (ROOT / "docs" / "reference" / "push-protocol.md").read_text()
    [snippet] = re.findall(r"```js\n(let cursor.*?)```", code, re.DOTALL)

    def html() -> str:
        values = json.dumps({"base": background.server.base, "token": background.server.token()})
        return (
            f"<title>page</title><script>const {{base, token}} = {values}; window.shown = [];\n"
            f"Math.random = () => 0; const show = (frame) => shown.push(frame);\n{snippet}</script>"
        )

    site = Site(html)
    try:
        with Background(ws_origins=(site.origin,), ws_heartbeat_s=1) as background:
            yield site, background
    finally:
        site.stop()


def test_an_event_source_gets_everything_over_connections_that_are_lost(
    page_of_another_origin: tuple[Site, Background], context: BrowserContext
) -> None:
    site, background = page_of_another_origin
    server = background.server
    background.call(lambda: server.hub.begin(3, 0))
    page = context.new_page()
    page.goto(site.origin)
    page.wait_for_function("shown.some((frame) => frame.op === 'welcome')")
    ids = []

    def publish() -> None:
        message = make_message()
        server.publish(message)
        ids.append(message.id)

    for _ in range(3):
        background.call(publish)
        page.wait_for_function(
            "(n) => new Set(shown.flatMap((f) => f.message?.UUID ?? [])).size === n", arg=len(ids)
        )

        def lose() -> None:
            for peer in list(server.hub._members.sockets):
                peer.abort()
            publish()

        background.call(lose)
        page.wait_for_function(
            "(n) => new Set(shown.flatMap((f) => f.message?.UUID ?? [])).size === n", arg=len(ids)
        )
    got = page.evaluate("shown.flatMap((frame) => frame.message?.UUID ?? [])")
    assert set(got) == set(ids)
    welcomes = page.evaluate("shown.filter((frame) => frame.op === 'welcome')")
    assert len(welcomes) == 4
    assert {welcome["missing"] for welcome in welcomes} == {None}


def test_a_page_of_an_origin_that_is_not_listed_gets_nothing(
    page_of_another_origin: tuple[Site, Background], context: BrowserContext
) -> None:
    site, background = page_of_another_origin
    page = context.new_page()
    other = site.origin.replace("127.0.0.1", "localhost")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/push/ticket")):
        page.goto(other)
    assert page.evaluate("shown.length") == 0
    assert background.server.hub.sockets == 0
