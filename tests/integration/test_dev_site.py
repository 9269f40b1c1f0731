"""The inbox page and its tokens over a real socket, as `notifyd dev` serves them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from notifyd.dev.site import TOKEN_PATH, add_dev_site
from notifyd.http.pages import PAGES, add_page_routes
from notifyd.http.server import HttpServer
from notifyd.push.auth import TokenVerifier
from notifyd.settings import load_settings

SETTINGS = load_settings({"NOTIFYD_JWT_SECRET": "s" * 32})


@asynccontextmanager
async def served(app: web.Application, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = HttpServer(host, 0, setting="NOTIFYD_HTTP")
    server.bind()
    await server.start(app)
    try:
        yield server.port
    finally:
        await server.stop()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application()
    add_dev_site(app, SETTINGS)
    async with served(app) as port:
        yield port


async def ask(port: int, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as response,
    ):
        return response, await response.read()


async def status_of(port: int, target: str) -> int:
    """Send a request whose target no client library rewrites."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def token(port: int, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    own = {
        "Host": f"localhost:{port}",
        "Origin": f"http://localhost:{port}",
        "Content-Type": "application/json",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}{TOKEN_PATH}", data=body, headers={**own, **headers}
        ) as response,
    ):
        return response.status, json.loads(await response.read())


# The page


async def test_the_page_is_served_with_headers_that_let_nothing_foreign_in(port: int) -> None:
    response, body = await ask(port, "/")
    assert response.status == 200
    assert body == (PAGES / "index.html").read_bytes()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


async def test_every_file_beside_the_page_is_served_as_what_it_is(port: int) -> None:
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for file in PAGES.iterdir():
        response, body = await ask(port, f"/{file.name}")
        assert (response.status, body) == (200, file.read_bytes()), file
        assert response.content_type == kinds[file.suffix], file


async def test_the_page_of_a_life_is_served_for_every_id(port: int) -> None:
    for path in ("/trace", "/trace/019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "/trace/nonsense"):
        response, body = await ask(port, path)
        assert (response.status, body) == (200, (PAGES / "trace.html").read_bytes())
        assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert await status_of(port, "/trace/a/b") == 404


async def test_a_page_that_did_not_change_is_not_sent_again(port: int) -> None:
    response, _ = await ask(port, "/")
    again, body = await ask(port, "/", **{"If-None-Match": response.headers["ETag"]})
    assert (again.status, body) == (304, b"")
    other, _ = await ask(port, "/", **{"If-None-Match": '"something else"'})
    assert other.status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/../pages.py",
        "/..%2fpages.py",
        "/%2e%2e/pages.py",
        "/..%5cpages.py",
        "/secret.txt",
        "/.hidden.js",
        "/inner.js/",
        "/inner",
        "//etc/passwd",
        "/index.html%00.js",
        "/link.js",
    ],
)
async def test_no_name_leads_out_of_the_folder_or_to_another_kind_of_file(
    tmp_path: Path, target: str
) -> None:
    folder = tmp_path / "pages"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "pages.py").write_text("secret")
    (folder / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<p>")
    (folder / ".hidden.js").write_text("secret")
    (folder / "link.js").symlink_to(tmp_path / "pages.py")
    app = web.Application()
    add_page_routes(app, folder)
    async with served(app) as port:
        assert await status_of(port, "/index.html") == 200
        assert await status_of(port, target) == 404


# Its tokens


async def test_the_page_gets_a_token_of_the_user_that_it_names(port: int) -> None:
    status, body = await token(port, b'{"user": "alice"}')
    assert status == 200
    assert sorted(body) == ["expires_at", "token"]
    identity = TokenVerifier(SETTINGS).verify(str(body["token"]))
    assert identity.user == "alice"
    assert identity.scopes == {"notify:send"}
    status, _ = await token(
        port, b'{"user": "b"}', Host=f"127.0.0.1:{port}", Origin=f"http://127.0.0.1:{port}"
    )
    assert status == 200


async def test_the_page_of_a_life_gets_the_token_of_an_operator(port: int) -> None:
    status, body = await token(port, b'{"user": "operator", "operator": true}')
    assert status == 200
    assert TokenVerifier(SETTINGS).verify(str(body["token"])).scopes == {"notify:send", "notify:ops"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:1"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "localhost.evil.example", "Origin": "http://localhost.evil.example"},
    ],
    ids=str,
)
async def test_a_page_from_elsewhere_gets_no_token(port: int, headers: dict[str, str]) -> None:
    status, body = await token(port, b'{"user": "alice"}', **headers)
    assert (status, "token" in body) == (403, False)


async def test_a_form_of_another_site_could_not_even_ask(port: int) -> None:
    status, _ = await token(port, b'{"user": "alice"}', **{"Content-Type": "text/plain"})
    assert status == 415


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"user": 1}', 400),
        (b'{"user": "a", "scope": "notify:ops"}', 400),
        (b'{"user": "\xff"}', 400),
        (b'{"user": ""}', 422),
        (b'{"user": "' + b"a" * 129 + b'"}', 422),
        (b'{"user": "' + b"a" * 5000 + b'"}', 413),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_body_that_names_no_user_says_what_to_send(port: int, body: bytes, status: int) -> None:
    found, problem = await token(port, body)
    assert (found, problem["status"]) == (status, status)
    assert problem["detail"]
