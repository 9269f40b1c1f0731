"""A real browser (Debian's Chromium, driven by Playwright), and Node."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

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
    if found is None:
        reason = f"needs {what}: none of {', '.join(names)} is on the path"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; CI installs it (.ci/run)", pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def node() -> str:
    return needed("node", "nodejs", what="Node 20 or later")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
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
