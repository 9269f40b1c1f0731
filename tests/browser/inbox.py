"""The inbox page as a person sees it: by roles, names and words."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from tests.fixtures.waiting import wait_until

WAIT_MS = 30_000


class Inbox:
    """One tab with the inbox of a user. Complaints of the browser are kept in `complaints`."""

    def __init__(self, context: BrowserContext, site: str, user: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.user = user
        self.page.goto(f"{site}/?user={user}")

    def _hear(self, message: Any) -> None:
        # That a server cannot be reached, or that it refuses a form, the browser complains of by itself.
        if (
            message.type == "error"
            and "Failed to load" not in message.text
            and "WebSocket" not in message.text
        ):
            self.complaints.append(message.text)

    @property
    def connection(self) -> Any:
        return self.page.locator("header").get_by_role("status")

    def connected(self) -> Inbox:
        expect(self.connection).to_have_text("Connected", timeout=WAIT_MS)
        return self

    @property
    def lines(self) -> Any:
        """The messages: each is a button that opens it."""
        return self.page.get_by_role("list", name="Messages").get_by_role("button")

    def line(self, title: str) -> Any:
        return self.lines.filter(has=self.page.locator("bdi", has_text=title))

    def shows(self, *titles: str) -> Inbox:
        """Wait until these are listed, in whatever order, and nothing else."""
        wait_until(
            lambda: sorted(self._listed()) == sorted(titles),
            timeout_s=WAIT_MS / 1000,
            what=f"{self.user} to see {titles}",
            every_s=0.05,
        )
        return self

    def _listed(self) -> list[str]:
        return self.page.locator("#list .title bdi").all_inner_texts()

    def unread(self, count: int) -> Inbox:
        """Wait until the badge and the title of the window say so."""
        head = self.page.get_by_role("heading", level=1)
        if count:
            words = "1 unread message" if count == 1 else f"{count} unread messages"
            expect(head).to_contain_text(words, timeout=WAIT_MS)
            expect(self.page).to_have_title(f"({count}) Inbox of {self.user} · notifyd")
        else:
            expect(head).not_to_contain_text("unread", timeout=WAIT_MS)
            expect(self.page).to_have_title(f"Inbox of {self.user} · notifyd")
        return self

    def fill(self, **fields: str) -> Inbox:
        for name, value in fields.items():
            self.page.get_by_label(name.capitalize()).fill(value)
        return self

    def send(self) -> Inbox:
        self.page.get_by_role("button", name="Send", exact=True).click()
        return self
