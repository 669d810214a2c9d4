"""The demo in the web console: submit a URL, watch the job to its end, and save its files."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect
from tests.chromium import running_chromium
from tests.console.console import Console


def download_in_browser(
    address: str, key: str, url: str, output: Path, screenshot: Path, *, with_subtitles: bool
) -> None:
    """Download *url* through the console at *address* into *output*, and leave a *screenshot* of the job.

    *key* is empty if the suite asks for none. Raises debian_packages.Missing without a Chromium.
    """
    output.mkdir(parents=True, exist_ok=True)
    screenshot.parent.mkdir(parents=True, exist_ok=True)
    with running_chromium() as browser:
        console = Console(browser, address)
        page = console.open()
        if key:
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Quality", exact=True).select_option("1080p")
        if with_subtitles:
            page.get_by_label("Format", exact=True).select_option("mp4")
            page.get_by_label("Subtitles", exact=True).check()
        console.submit(url)
        row = page.get_by_role("list", name="Downloads").get_by_role("listitem").first
        print(f"submitted {url} in the console at {address}", flush=True)
        expect(row).to_contain_text("Finished", timeout=600_000)
        row.get_by_role("link").click()
        expect(page.get_by_role("region", name="Files")).to_be_visible()
        for name in page.locator(".file-name").all_inner_texts():
            print(f"saved {console.save(name, output).name}", flush=True)
        page.get_by_role("button", name="Play", exact=True).click()
        console.wait_until("document.querySelector('video')?.readyState >= 2")
        console.screenshot(screenshot)
        console.close()
