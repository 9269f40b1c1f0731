"""Health, readiness and metrics over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from notifyd.errors import ConfigError
from notifyd.http.health import POLL_STUCK_AFTER_S, Health
from notifyd.http.server import HttpServer, PublicSite, admin_app
from notifyd.metrics import Metrics


@dataclass
class Role:
    name: str = "persist"
    waits_for: list[str] = field(default_factory=list)
    polled_at: float | None = None


@pytest.fixture
def health() -> Health:
    return Health(Metrics())


@pytest.fixture
async def admin(health: Health) -> AsyncIterator[str]:
    server = HttpServer("127.0.0.1", 0, setting="NOTIFYD_ADMIN")
    server.bind()
    await server.start(admin_app(health, health._metrics))
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


async def get(url: str) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def test_alive_but_not_ready_before_the_roles_exist(admin: str) -> None:
    assert (await get(f"{admin}/healthz"))[0] == 200
    assert await get(f"{admin}/readyz") == (503, {"ready": False, "waits_for": ["process"]})


async def test_ready_once_no_role_waits_for_anything(admin: str, health: Health) -> None:
    role = Role(waits_for=["database"])
    health.started([role])
    assert await get(f"{admin}/readyz") == (503, {"ready": False, "waits_for": ["persist: database"]})
    role.waits_for = []
    assert (await get(f"{admin}/readyz"))[0] == 200


async def test_not_ready_at_once_when_stopping_yet_alive(admin: str, health: Health) -> None:
    health.started([Role()])
    health.is_stopping = True
    assert (await get(f"{admin}/readyz"))[0] == 503
    assert (await get(f"{admin}/healthz"))[0] == 200


async def test_a_poll_loop_that_stands_still_is_not_alive(
    admin: str, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.started([Role(polled_at=1000.0)])
    monkeypatch.setattr("notifyd.http.health.time.monotonic", lambda: 1000.0 + POLL_STUCK_AFTER_S + 1)
    assert health.stuck() == ["persist"]
    monkeypatch.setattr("notifyd.http.health.time.monotonic", lambda: 1000.0 + POLL_STUCK_AFTER_S - 1)
    assert health.stuck() == []


async def test_metrics_name_the_version(admin: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as response:
        assert "notifyd_build_info{version=" in await response.text()


async def test_what_it_is_made_of_is_not_told(admin: str) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/metrics", "/nothing"):
            async with session.get(f"{admin}{path}") as response:
                assert response.headers["Server"] == "notifyd"


async def test_a_port_in_use_names_the_setting_and_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = HttpServer("127.0.0.1", port, setting="NOTIFYD_HTTP")
        with pytest.raises(ConfigError, match=rf"port {port} on 127\.0\.0\.1 is in use.*NOTIFYD_HTTP_PORT"):
            server.bind()


async def test_an_address_that_is_not_ours_names_the_setting() -> None:
    server = HttpServer("192.0.2.1", 0, setting="NOTIFYD_HTTP")
    with pytest.raises(ConfigError, match="NOTIFYD_HTTP_HOST"):
        server.bind()


@asynccontextmanager
async def served(site: PublicSite) -> AsyncIterator[str]:
    server = HttpServer("127.0.0.1", 0, setting="NOTIFYD_HTTP")
    server.bind()
    await server.start(site.app)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()


async def hello(_: web.Request) -> web.Response:
    return web.json_response({"hello": True})


async def test_the_public_server_says_503_until_the_process_is_ready(health: Health) -> None:
    site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
    site.app.router.add_get("/hello", hello)
    site.claim("ws")
    async with served(site) as url:
        status, body = await get(f"{url}/hello")
        assert (status, body["status"]) == (503, 503)
        health.started([Role("ws"), Role("persist", waits_for=["database"])])
        assert health.waits_for() == ["persist: database"]
        assert await get(f"{url}/hello") == (200, {"hello": True}), "a push must not wait for the database"


async def test_a_stop_answers_who_comes_and_ends_each_connection(health: Health) -> None:
    health.started([Role("api")])
    site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
    site.app.router.add_get("/hello", hello)
    site.claim("api")
    server = HttpServer("127.0.0.1", 0, setting="NOTIFYD_HTTP")
    server.bind()
    await server.start(site.app)
    url = f"http://127.0.0.1:{server.port}/hello"
    async with aiohttp.ClientSession() as busy, aiohttp.ClientSession() as idle:
        for session in (busy, idle):
            async with session.get(url) as response:
                assert "Connection" not in response.headers
        health.is_stopping = True
        leaving = asyncio.create_task(server.send_away(1.0))
        async with busy.get(url) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
        await leaving
        # The idle one was closed: its next request opens another, which is answered as well.
        async with idle.get(url) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
        await server.send_away(60.0)
    await server.stop()


async def test_a_request_that_came_at_the_last_moment_of_a_stop_is_answered(health: Health) -> None:
    health.started([Role("api")])
    site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
    site.app.router.add_get("/hello", hello)
    server = HttpServer("127.0.0.1", 0, setting="NOTIFYD_HTTP")
    server.bind()
    await server.start(site.app)
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for is_last in (False, True):
            client.setblocking(True)
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: here\r\n\r\n")
            if is_last:
                # Nothing has been read of it: the loop has not had its turn since.
                health.is_stopping = True
                server._waiting.close_kept()
            client.setblocking(False)
            answer = await loop.sock_recv(client, 1000)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert (b"Connection: close" in answer) is is_last
    await server.stop()


async def test_a_role_that_is_not_ready_closes_no_route_of_another(health: Health) -> None:
    ws, api = Role("ws", waits_for=["replay window"]), Role("api")
    health.started([ws, api])
    site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
    site.app.router.add_get("/push", hello)
    site.claim("ws")
    site.app.router.add_get("/messages", hello)
    site.claim("api")
    site.app.router.add_get("/page", hello)
    async with served(site) as url:
        for unready, closed, open_ in ((ws, "push", "messages"), (api, "messages", "push")):
            ws.waits_for, api.waits_for = [], []
            unready.waits_for = ["something"]
            status, body = await get(f"{url}/{closed}")
            assert (status, body["detail"]) == (503, f"not ready: {unready.name}: something")
            assert (await get(f"{url}/{open_}"))[0] == 200
            assert (await get(f"{url}/page"))[0] == 200


async def test_what_is_not_there_is_told_to_programs_as_a_problem(health: Health) -> None:
    site = PublicSite(lambda role: health.lacks((role,)), lambda: health.is_stopping)
    site.app.router.add_post("/v1/messages", hello)
    async with served(site) as url:
        assert (await get(f"{url}/v1/nothing"))[1]["code"] == "no_such_route"
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/messages") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert (await response.json())["status"] == 405
