"""A real browser (Debian's Chromium, driven by Playwright), and Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from notifyd.dev.child import free_port
from notifyd.message.build import build_envelope
from tests.fixtures.processes import NotifydProcess, ProcessStarter
from tests.fixtures.service import Service

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENT = ROOT / "clients" / "js"

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def needed(*names: str, what: str) -> str:
    """Return the path of the first of these programs; without any, skip by name, and fail in CI."""
    found = next((path for path in map(shutil.which, names) if path), None)
    return found or _do_without(f"needs {what}: none of {', '.join(names)} is on the path")


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI that is a failure", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node() -> str:
    path = needed("node", "nodejs", what="Node 20 or later")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        _do_without(f"needs Node 20 or later: {path} is {version}")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module: it ends with it, and its event loop too, which no asynchronous test may meet."""
    path = needed("chromium", "chromium-browser", "google-chrome", what="a Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A fresh profile: one browser of one person. Its tabs share storage, locks and channels."""
    context = chromium.new_context()
    context.set_default_timeout(20_000)
    yield context
    context.close()


class Site:
    """The page, roles `ws` and `api` in one process that may be killed; the rest of the service beside it."""

    def __init__(self, process: NotifydProcess, service: Service) -> None:
        self.process = process
        self.service = service
        self.url = service.env["NOTIFYD_WS_ORIGINS"]

    def send(self, to: str, *titles: str, **content: object) -> list[str]:
        """Send these as any producer does, straight to Kafka; returns their ids."""
        values = [
            build_envelope(to=to, sender="orders", created_by="test", title=title, **content)  # type: ignore[arg-type]
            for title in titles
        ]
        done = self.service.run("send", "-", "--json", stdin=b"\n".join(values) + b"\n")
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["id"] for line in done.stdout.splitlines()]

    def metric(self, name: str) -> float:
        return self.process.metric(name)


@pytest.fixture
def site(service: Service, start_notifyd: ProcessStarter, tmp_path: Path) -> Site:
    """Everything that a page needs, on real processes; its origin stays when the process is started again."""
    port = free_port()
    service.env.update(
        NOTIFYD_HTTP_PORT=str(port),
        NOTIFYD_WS_ORIGINS=f"http://localhost:{port}",
    )
    process = NotifydProcess(["--role=ws,api"], {**service.env, "NOTIFYD_POD_NAME": "ws-0"}, tmp_path, "ws-0")
    process.args = [sys.executable, str(Path(__file__).with_name("site.py"))]
    start_notifyd.processes.append(process)
    process.start().wait_ready()
    return Site(process, service)


@pytest.fixture
def user() -> str:
    """Somebody whom no other test knows."""
    return f"user-{uuid.uuid4().hex[:8]}"
