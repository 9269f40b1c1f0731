"""The pages, inbox and trace: files of `notifyd/http/pages/`, with headers that keep a page honest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from aiohttp import web

#: The files, as installed.
PAGES: Final = Path(__file__).with_name("pages")

#: What there may be of files, and what it is. Anything else in the folder is not served.
_KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}

#: Nothing from elsewhere, nothing inline, in nobody's frame; `'self'` takes the WebSocket in too.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for each time, sent only when it changed.
    "Cache-Control": "no-cache",
}


def add_page_routes(app: web.Application, folder: Path = PAGES) -> None:
    """Serve `index.html` of `folder` at `/`, `trace.html` at `/trace/UUID`, and the files by their names."""

    async def trace(request: web.Request) -> web.Response:
        return give(request, "trace.html")

    async def page(request: web.Request) -> web.Response:
        return give(request, request.match_info.get("name", "index.html"))

    def give(request: web.Request, name: str) -> web.Response:
        kind = _KINDS.get(Path(name).suffix)
        # Looked for among the names that are there, so that no name can lead out of the folder.
        found = next((file for file in _files(folder) if file.name == name), None)
        if kind is None or found is None:
            raise web.HTTPNotFound
        body = _read(found)
        tag = hashlib.sha256(body).hexdigest()[:32]
        headers = {**_HEADERS, "ETag": f'"{tag}"'}
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": kind})

    app.router.add_get("/", page)
    app.router.add_get("/trace", trace)
    app.router.add_get("/trace/{id}", trace)
    app.router.add_get("/{name}", page)


def _files(folder: Path) -> list[Path]:
    return [
        file for file in folder.iterdir() if file.is_file() and not file.is_symlink() and file.stem[0] != "."
    ]


def _read(file: Path) -> bytes:
    return file.read_bytes()
