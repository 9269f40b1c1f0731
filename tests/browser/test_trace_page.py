"""The page with a message's life in a real browser, on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from notifyd.message.ids import new_id
from tests.browser.conftest import Site

WAIT_MS = 30_000


class TracePage:
    """One tab with the life of a message. What the browser complains of is kept in `complaints`."""

    def __init__(self, context: BrowserContext, site: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self._site = site
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def _hear(self, message: Any) -> None:
        if message.type == "error" and "Failed to load" not in message.text:
            self.complaints.append(message.text)

    def open(self, message_id: str = "") -> TracePage:
        self.page.goto(f"{self._site}/trace/{message_id}")
        return self

    def status(self, text: str) -> TracePage:
        expect(self.page.locator("header").get_by_role("status")).to_have_text(text, timeout=WAIT_MS)
        return self

    def region(self, user: str) -> Any:
        return self.page.get_by_role("region", name=user, exact=True)

    def stages(self, user: str, channel: str) -> Any:
        return (
            self.region(user)
            .get_by_role("list", name=f"Stages of {channel} to {user}")
            .get_by_role("listitem")
        )


@pytest.fixture
def trace(context: BrowserContext, site: Site) -> Iterator[TracePage]:
    page = TracePage(context, site.url)
    yield page
    assert page.complaints == []


def test_a_life_is_followed_until_its_end_and_what_changes_is_said_aloud(
    trace: TracePage, site: Site, user: str
) -> None:
    site.service.roles("persist")
    (message_id,) = site.send(user, "On its way", channels=["stub"])
    trace.open(message_id).status("Watching")
    expect(trace.page.get_by_role("heading", name="On its way")).to_be_visible()
    expect(trace.region(user)).to_contain_text("Waits for an outcome")
    expect(trace.region(user)).to_contain_text("Not known: outcome")
    site.service.role("deliver", NOTIFYD_STUB_SCRIPT="dead")
    trace.status("Final")
    expect(trace.stages(user, "stub")).to_have_count(1)
    expect(trace.stages(user, "stub")).to_contain_text("dead")
    expect(trace.stages(user, "stub")).to_contain_text("deliver-0")
    expect(trace.stages(user, "stub")).to_contain_text("stub_dead, by script")
    expect(trace.region(user)).not_to_contain_text("Waits for")
    expect(trace.page.locator("[aria-live=polite]")).to_contain_text("the message: dead")
    expect(trace.page).to_have_title("dead: On its way · notifyd")


def test_one_that_nobody_has_seen_is_awaited_and_no_uuid_is_told_at_its_field(
    trace: TracePage, site: Site, user: str
) -> None:
    site.service.roles("persist")
    trace.open(new_id()).status("Waiting: nobody has seen this message yet")
    trace.open("nonsense")
    field = trace.page.get_by_label("UUID")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description("This is no UUID; `notifyd send` prints one")
    # By the keyboard alone from there to another message.
    (message_id,) = site.send(user, "by keyboard")
    field.fill(message_id)
    field.press("Enter")
    expect(trace.page.get_by_role("heading", name="by keyboard")).to_be_visible(timeout=WAIT_MS)
    trace.page.get_by_role("link", name="Inbox").focus()
    trace.page.keyboard.press("Tab")
    expect(trace.page.get_by_label("UUID", exact=True)).to_be_focused()
    for _ in range(2):
        trace.page.keyboard.press("Tab")
    expect(trace.page.get_by_text("The envelope, without contacts")).to_be_focused()
    trace.page.keyboard.press("Enter")
    expect(trace.page.get_by_label("The envelope as JSON")).to_contain_text('"title": "by keyboard"')


def test_what_a_message_says_is_text_and_its_contacts_are_nowhere(
    trace: TracePage, site: Site, user: str
) -> None:
    site.service.roles("persist")
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    contacts = {user: {"userId": user, "webhook": [{"url": "https://secret.example/x"}]}}
    (message_id,) = site.send(user, evil, contacts=contacts, type=evil)
    trace.open(message_id)
    expect(trace.page.get_by_role("heading", name=evil)).to_be_visible(timeout=WAIT_MS)
    assert trace.page.locator("main").locator("img, script").count() == 0
    assert "secret.example" not in trace.page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_it_can_be_read_in_both_schemes(
    chromium: Any, site: Site, user: str, scheme: str
) -> None:
    site.service.roles("persist")
    (message_id,) = site.send(user, "Contrast", channels=["ws", "stub"])
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 390, "height": 800})
    try:
        page = TracePage(context, site.url).open(message_id).page
        expect(page.get_by_role("heading", name="Contrast")).to_be_visible(timeout=WAIT_MS)
        # WCAG 2.2, 1.4.3: 4.5:1 for text; and nothing is wider than a phone.
        low = page.evaluate(_LOW_CONTRAST)
        assert low == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    finally:
        context.close()


_LOW_CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const hasText = (node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
  const all = [...document.querySelectorAll("main *")];
  const texts = all.filter((node) => hasText(node) && node.checkVisibility());
  return texts.map((node) => {
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    return [node.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""
