"""The console in a browser, as its user sees it."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

#: Longest time that a test waits for what the suite does.
WAIT_MS = 60_000
_STORED_KEY = "reelhaul.key"
# Reports what the content security policy refuses as an error of the page.
_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`refused by the policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
# Failures that the browser itself writes to its console; the tests provoke them.
_EXPECTED = "Failed to load resource"

expect.set_options(timeout=WAIT_MS)


class Console:
    """A page with the console, and what happened in it."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address = address
        #: Errors of scripts and refusals of the policy.
        self.errors: list[str] = []
        #: All URLs that the browser has requested.
        self.urls: list[str] = []
        self._context = browser.new_context(
            accept_downloads=True, locale="en-GB", timezone_id="Europe/Berlin"
        )
        self._context.set_default_timeout(WAIT_MS)
        self._context.add_init_script(_REPORT_VIOLATIONS)
        self.page: Page = self._context.new_page()
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._on_message)

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type == "error" and _EXPECTED not in message.text:
            self.errors.append(message.text)

    def open(self, path: str = "jobs", *, key: str = "", width: int = 1280, dark: bool = False) -> Page:
        """Show the page *path*, signed in with *key* if there is one."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
        if key and self.page.url == "about:blank":
            self._context.add_init_script(f"sessionStorage.setItem({_STORED_KEY!r}, {key!r})")
        self.page.goto(f"{self.address}/#/{path}")
        return self.page

    def submit(self, *urls: str) -> None:
        """Paste *urls* into the form and press Enter."""
        field = self.page.get_by_label("Address of a video")
        field.fill("\n".join(urls))
        field.press("Enter")

    def row(self, title: str) -> Locator:
        """Return the rows of the list whose text contains *title*."""
        return self.page.get_by_role("list", name="Downloads").get_by_role("listitem").filter(has_text=title)

    def save(self, name: str, folder: Path) -> Path:
        """Save the file *name* of the job that is shown; return its path in *folder*."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=f"Save {name}", exact=True).click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def wait_until(self, expression: str) -> None:
        """Wait until *expression* is true in the page.

        Playwright's own way needs eval, which the policy refuses.
        """
        end = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        self.page.screenshot(path=path, full_page=True)

    def close(self) -> None:
        """Close the profile of the browser."""
        self._context.close()
