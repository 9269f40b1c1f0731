"""The inbox page in a real browser, on real processes: what a person sees and does."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Site
from tests.browser.inbox import WAIT_MS, Inbox
from tests.fixtures.waiting import wait_until


def test_a_message_shows_with_badge_and_title_and_is_said_aloud(
    context: BrowserContext, site: Site, user: str
) -> None:
    inbox = Inbox(context, site.url, user).connected().unread(0)
    expect(inbox.page.get_by_text("Nothing here yet")).to_be_visible()
    site.send(user, "On its way", body="It left the warehouse.")
    inbox.shows("On its way").unread(1)
    expect(inbox.page.locator("[aria-live=polite]")).to_have_text("New message from orders: On its way")
    expect(inbox.page.get_by_text("Nothing here yet")).to_be_hidden()
    assert inbox.complaints == []


def test_of_messages_with_a_collapse_key_the_newest_is_shown(
    context: BrowserContext, site: Site, user: str
) -> None:
    inbox = Inbox(context, site.url, user).connected()
    site.send(user, "Packed", collapse_key="order-1")
    site.send(user, "Something else", collapse_key="order-2")
    inbox.shows("Packed", "Something else").unread(2)
    site.send(user, "Shipped", collapse_key="order-1")
    inbox.shows("Shipped", "Something else").unread(2)
    inbox.page.reload()
    inbox.connected().shows("Shipped", "Something else").unread(2)
    assert inbox.complaints == []


def test_the_form_sends_and_opening_a_message_marks_it_as_read(
    context: BrowserContext, site: Site, user: str
) -> None:
    site.service.roles("persist")
    inbox = Inbox(context, site.url, user).connected()
    inbox.fill(title="Lunch", text="At noon?", link="https://example.com/menu").send()
    inbox.shows("Lunch").unread(1)
    expect(inbox.page.get_by_text("Sent: ")).to_be_visible()
    inbox.line("Lunch").click()
    expect(inbox.page.get_by_text("At noon?").locator("visible=true")).to_be_visible()
    link = inbox.page.get_by_role("link", name="https://example.com/menu")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    inbox.unread(0)
    message_id = inbox.page.get_by_text("Sent: ").inner_text().removeprefix("Sent: ")

    def stages() -> set[str]:
        trace = site.service.trace(message_id) or {"deliveries": []}
        return {event["stage"] for delivery in trace["deliveries"] for event in delivery["events"]}

    wait_until(lambda: {"acked", "seen", "read"} <= stages(), what="the trace to tell", every_s=0.5)
    assert inbox.complaints == []


def test_what_is_wrong_is_said_at_its_field(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    inbox.fill(to=f"{user}, {'x' * 200}", title="Hello").send()
    to = inbox.page.get_by_label("To", exact=True)
    expect(to).to_have_attribute("aria-invalid", "true", timeout=WAIT_MS)
    expect(to).to_be_focused()
    expect(to).to_have_accessible_description(
        "User names, with commas between them is 200 characters long; a user id has 1 to 128; "
        "write the user's id, or leave the entry out"
    )
    expect(inbox.page.get_by_role("alert").filter(has_text="Not sent")).to_be_visible()
    inbox.fill(to="").send()
    expect(inbox.page.locator("#to-error")).not_to_contain_text("200 characters", timeout=WAIT_MS)
    expect(to).to_have_attribute("aria-invalid", "true")
    inbox.fill(to=user).send()
    inbox.shows("Hello")
    expect(to).not_to_have_attribute("aria-invalid", "true")


def test_two_tabs_of_a_user_share_a_connection_and_agree(
    context: BrowserContext, site: Site, user: str
) -> None:
    first = Inbox(context, site.url, user).connected()
    second = Inbox(context, site.url, user).connected()
    site.send(user, "one", "two", "three")
    for tab in (first, second):
        tab.shows("one", "two", "three").unread(3)
    assert site.metric("notifyd_ws_connections") == 1
    second.line("two").click()
    first.unread(2)
    first.page.get_by_role("button", name="Mark all as read").click()
    second.unread(0)

    # The tab with the connection goes: the other one has it, and lacks and doubles nothing.
    first.page.close()
    site.send(user, "four")
    second.shows("one", "two", "three", "four").unread(1)
    assert second.complaints == []


def test_what_is_read_on_one_device_is_read_on_the_other(
    chromium: Any, context: BrowserContext, site: Site, user: str
) -> None:
    phone_context = chromium.new_context(viewport={"width": 390, "height": 800})
    try:
        laptop = Inbox(context, site.url, user).connected()
        phone = Inbox(phone_context, site.url, user).connected()
        site.send(user, "one", "two")
        for device in (laptop, phone):
            device.shows("one", "two").unread(2)
        phone.line("one").click()
        laptop.unread(1)
        laptop.line("two").click()
        phone.unread(0)
    finally:
        phone_context.close()


def test_a_second_user_sees_nothing_of_the_first(context: BrowserContext, site: Site, user: str) -> None:
    alice = Inbox(context, site.url, user).connected()
    bob = Inbox(context, site.url, f"{user}-bob").connected()
    site.send(user, "for your eyes")
    alice.shows("for your eyes")
    alice.fill(to=f"{user}-bob", title="Hello Bob").send()
    bob.shows("Hello Bob").unread(1)
    alice.shows("for your eyes").unread(1)
    bob.page.get_by_role("navigation").get_by_role("link", name="alice", exact=True).click()
    expect(bob.page.get_by_role("heading", level=1)).to_contain_text("Inbox of alice")
    expect(
        bob.page.get_by_role("navigation").get_by_role("link", name="alice", exact=True)
    ).to_have_attribute("aria-current", "page")


def test_a_killed_process_costs_no_message_and_doubles_none(
    context: BrowserContext, site: Site, user: str
) -> None:
    tabs = [Inbox(context, site.url, user).connected() for _ in range(2)]
    titles = [f"before {n}" for n in range(20)]
    site.send(user, *titles)
    tabs[0].shows(*titles)
    for round_ in range(2):
        more = [f"{round_} away {n}" for n in range(20)]
        site.process.kill()
        expect(tabs[0].connection).to_contain_text("Not connected", timeout=WAIT_MS)
        site.send(user, *more)
        site.process.start().wait_ready()
        titles += [*more, f"{round_} back"]
        site.send(user, f"{round_} back")
        for tab in tabs:
            tab.shows(*titles)
    for tab in tabs:
        tab.unread(len(titles))
        assert tab.page.get_by_role("alert").filter(has_text="missing").count() == 0
    assert tabs[0].complaints == []


def test_a_reload_keeps_the_list_and_brings_what_came_meanwhile(
    context: BrowserContext, site: Site, user: str
) -> None:
    inbox = Inbox(context, site.url, user).connected()
    site.send(user, "first")
    inbox.shows("first")
    inbox.line("first").click()
    inbox.unread(0)
    inbox.page.goto("about:blank")
    site.send(user, "while away")
    again = Inbox(context, site.url, user).connected()
    again.shows("first", "while away").unread(1)


def test_what_a_message_says_is_text_and_nothing_else(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    for url in ("javascript:alert(3)", "data:text/html,<script>alert(4)</script>", " JaVaScRiPt:alert(5)"):
        site.send(user, evil, body=f"{evil}\u202egnp.exe", url=url)
    wait_until(lambda: inbox.lines.count() == 3, what="three messages")
    for n in range(3):
        inbox.lines.nth(n).click()
    shown = inbox.page.locator("#list")
    assert shown.locator("img, script, a").count() == 0
    assert shown.locator(".title bdi").all_inner_texts() == [evil] * 3
    odd = {"title": 7, "body": {"a": 1}, "url": ["x"], "version": "9.0"}
    site.send(user, "", content=odd)
    wait_until(lambda: inbox.lines.count() == 4, what="a message of a later version")
    assert inbox.complaints == []


def test_a_gap_is_told_and_can_be_dismissed(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    # A place of another life of the topic, as after a broker without a disk was started again.
    inbox.page.evaluate(
        """() => {
          const key = Object.keys(localStorage).find((name) => name.includes("/v1/push"));
          const place = JSON.stringify({ cursor: "1nonsense", at: {} });
          addEventListener("pagehide", () => localStorage.setItem(key, place));
        }"""
    )
    inbox.page.reload()
    notice = inbox.page.get_by_role("alert").filter(has_text="Older messages may be missing")
    expect(notice).to_be_visible(timeout=WAIT_MS)
    notice.get_by_role("button", name="Dismiss").click()
    expect(notice).to_be_hidden()
    inbox.connected()
    site.send(user, "all the same")
    inbox.shows("all the same")


def test_where_no_websocket_gets_through_the_page_reads_events(
    context: BrowserContext, site: Site, user: str
) -> None:
    context.add_init_script(
        "WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006 })) } close() {} }"
    )
    site.service.roles("persist")
    inbox = Inbox(context, site.url, user).connected()
    (message_id,) = site.send(user, "by events")
    inbox.shows("by events")
    assert site.service.wait_for_state(message_id, "done")["deliveries"][0]["state"] == "acked"
    site.process.kill()
    site.send(user, "while away")
    site.process.start().wait_ready()
    inbox.shows("by events", "while away").connected()
    assert inbox.complaints == []


def test_all_of_it_can_be_done_by_keyboard(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    page = inbox.page
    site.send(user, "Read me", body="by keyboard", url="https://example.com/")
    inbox.shows("Read me")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to sending")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to sending")).to_be_in_viewport()
    walk = _walk(page, until="Mark all as read")
    assert walk[:3] == ["alice", "bob", user]
    page.keyboard.press("Tab")
    expect(inbox.lines.first).to_be_focused()
    page.keyboard.press("Enter")
    expect(inbox.lines.first).to_have_attribute("aria-expanded", "true")
    inbox.unread(0)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="https://example.com/")).to_be_focused()

    page.reload()
    inbox.connected()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("To", exact=True)).to_be_focused()
    for text in (user, "Typed", "a text", "https://example.com/2"):
        page.keyboard.press("Control+A")
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()
    page.keyboard.press("Space")
    inbox.shows("Read me", "Typed")


def _walk(page: Page, *, until: str) -> list[str]:
    """Press Tab until something of this name has the focus; returns the names on the way there."""
    names: list[str] = []
    while len(names) < 20:
        page.keyboard.press("Tab")
        name = page.evaluate("() => document.activeElement.textContent")
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus on {name!r} cannot be seen"
        if name == until:
            return names
        names.append(name)
    raise AssertionError(f"{until!r} is not among {names}")


def test_the_page_tells_a_screen_reader_what_is_what(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    site.send(user, "Hello")
    inbox.shows("Hello")
    page = inbox.page
    assert page.locator("html").get_attribute("lang") == "en"
    for role in ("banner", "main", "navigation"):
        assert page.get_by_role(role).count() == 1, role  # type: ignore[arg-type]
    for name in ("Messages", "Send a message"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
        expect(page.get_by_role("heading", level=2, name=name)).to_be_visible()
    assert page.get_by_role("heading", level=1).inner_text().startswith(f"Inbox of {user}")
    for name in ("To", "Title", "Text", "Link (optional)"):
        expect(page.get_by_role("textbox", name=name, exact=True)).to_be_visible()
    expect(inbox.lines.first).to_have_accessible_name(re.compile("^Unread: Hello"))
    for control in page.locator("button, input, textarea, a").all():
        if control.is_visible():
            expect(control).to_have_accessible_name(re.compile(r"\S"))
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map(({ id }) => id)")
    assert len(ids) == len(set(ids))
    named = page.evaluate(
        "() => ['aria-describedby', 'aria-labelledby', 'aria-controls', 'for'].flatMap((name) =>"
        " [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(' ')))"
    )
    assert set(named) <= set(ids)


def test_words_can_be_read_in_light_and_dark(context: BrowserContext, site: Site, user: str) -> None:
    inbox = Inbox(context, site.url, user).connected()
    site.send(user, "Hello", body="A text", url="https://example.com/")
    inbox.shows("Hello")
    inbox.lines.first.click()
    inbox.fill(to="x" * 200).send()
    expect(inbox.page.locator("#to-error")).to_be_visible(timeout=WAIT_MS)
    pages = {}
    for scheme in ("light", "dark"):
        inbox.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = inbox.page.evaluate(_CONTRASTS)
        assert len(found) > 20
        poor = [entry for entry in found if entry["ratio"] < 4.5]
        assert poor == [], json.dumps(poor, indent=1)
        pages[scheme] = inbox.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert pages["light"] != pages["dark"]


def test_a_narrow_window_shows_all_of_it_without_scrolling_sideways(
    context: BrowserContext, site: Site, user: str
) -> None:
    inbox = Inbox(context, site.url, user).connected()
    site.send(user, "x" * 300, body="y" * 1000, url=f"https://example.com/{'z' * 300}")
    wait_until(lambda: inbox.lines.count() == 1, what="the message")
    inbox.lines.first.click()
    for width in (320, 600, 1200):
        inbox.page.set_viewport_size({"width": width, "height": 700})
        assert inbox.page.evaluate("() => document.documentElement.scrollWidth") <= width


#: The contrast (WCAG 2.2, 1.4.3) of each visible text with what is behind it.
_CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    const isSeen = node.checkVisibility() && !node.closest(":disabled, .unseen, .skip, noscript");
    if (!texts.currentNode.data.trim() || !isSeen) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(behind(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push({ text: node.textContent.slice(0, 40), ratio: Math.round(ratio * 100) / 100 });
  }
  return found;
}"""
