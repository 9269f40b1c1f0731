"""Make docs/images/inbox-{light,dark}.png: the inbox page of `notifyd dev`, as Chromium shows it.

    .venv/bin/python tools/screenshots.py [http://localhost:8080]

Without an address it starts `notifyd dev` itself, in a folder of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NOTIFYD = str(Path(sys.executable).with_name("notifyd"))
MESSAGES = (
    ("Welcome to your inbox", "Open a message to read it; your other devices learn of it at once.", ""),
    ("Invoice for November", "Due on 12 December. Nothing to do if you pay by direct debit.", ""),
    ("Build 1842 passed", "main, 12 minutes ago. Nothing to do.", ""),
    (
        "Your order is on its way",
        "It left the warehouse this morning and arrives on Thursday between 9 and 12.",
        "https://shop.example/orders/1842",
    ),
)


def photograph(site: str) -> None:
    """Send a few messages to alice, open one, and save the page in both schemes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1120, "height": 640}, locale="en-GB")
        page.goto(site)
        expect(page.get_by_text("Connected", exact=True)).to_be_visible(timeout=30_000)
        for title, body, url in MESSAGES:
            _send(page, title, body, url)
        page.locator("#list .line").first.click()
        page.get_by_label("Title").focus()
        page.locator("#result").evaluate("(node) => (node.textContent = '')")
        page.wait_for_timeout(2000)  # until what arrived last has ended its entrance
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=IMAGES / f"inbox-{scheme}.png")
        browser.close()


def _send(page: Page, title: str, body: str, url: str) -> None:
    for label, text in (("Title", title), ("Text", body), ("Link", url)):
        page.get_by_label(label).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#list .line").first).to_contain_text(title, timeout=30_000)


def main() -> None:
    """Run by hand when the page has changed."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        photograph(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [NOTIFYD, "dev", "--json", "--http-port", "0", "--admin-port", "0"]
        dev = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert dev.stdout is not None
            photograph(json.loads(dev.stdout.readline())["urls"]["page"])
        finally:
            dev.terminate()
            dev.wait(30)


if __name__ == "__main__":
    main()
