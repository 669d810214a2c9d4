"""The console in a real browser, on a real suite: what its user does, and what may not happen meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.console.console import Console
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import CUES, ensure_media
from tests.sites.pages import TITLE
from tests.sites.site import Site, start_site
from tests.sites.tools import file_digest
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite

_HOSTILE_TITLE = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>'
#: Slow enough to be cancelled or paused; the site would need minutes.
_SLOW = "media.rate=15000"


def test_key_is_entered_once_and_kept_out_of_urls(console: Console, key: str) -> None:
    """A wrong key is explained, the right one is kept until its user signs out, and no URL has it."""
    page = console.open()
    page.get_by_label("API key").fill("rh_live_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("does not know this key")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Downloads")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Downloads")).to_be_visible()
    assert page.evaluate("JSON.stringify([localStorage, document.cookie])") == '[{},""]'
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("JSON.stringify([sessionStorage, localStorage])") == "[{},{}]"


def test_video_is_downloaded_watched_played_and_saved(
    console: Console, key: str, site: Site, tmp_path: Path
) -> None:
    """A pasted address becomes a finished job by itself; its file plays, and is saved as the site has it."""
    page = console.open("jobs?text=main-job", key=key)
    expect(page.get_by_text("No download matches.")).to_be_visible()
    page.get_by_label("Format", exact=True).select_option("mp4")
    page.get_by_label("Subtitles", exact=True).check()
    console.submit(site.url("/watch/demo?v=main-job"))
    row = console.row(TITLE)
    expect(row).to_contain_text("Finished")
    row.get_by_role("link", name=TITLE).click()
    expect(page.get_by_role("heading", name=TITLE)).to_be_focused()

    name = page.locator(".file-name").first.inner_text()
    assert file_digest(console.save(name, tmp_path)) == site.digest("/media/1080.mp4")

    page.get_by_role("button", name="Play", exact=True).click()
    console.wait_until("document.querySelector('video')?.readyState >= 1")
    console.wait_until("document.querySelector('video').textTracks[0]?.cues?.length > 0")
    page.evaluate("document.querySelector('video').currentTime = 5")
    console.wait_until("!document.querySelector('video').seeking")

    first, *others = [cue[2]["en"] for cue in CUES]
    page.get_by_label("Search in the transcript").fill(first)
    lines = page.get_by_label("Lines of the transcript")
    expect(lines).to_contain_text(first)
    expect(lines).not_to_contain_text(others[-1])
    expect(page.get_by_role("region", name="Files").get_by_role("status")).to_contain_text(
        f"of {len(CUES)} lines"
    )
    attempts = page.get_by_role("region", name="Attempts", exact=True)
    expect(attempts.get_by_role("row")).to_have_count(2)
    expect(attempts).to_contain_text("Succeeded")


def test_job_is_paused_resumed_and_cancelled_by_keyboard(
    console: Console, suite: Suite, key: str, site: Site
) -> None:
    """All of it works without a mouse, from the first Tab on."""
    page = console.open("jobs?text=by-keyboard", key=key)
    expect(page.get_by_label("Address of a video")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Address of a video")).to_be_focused()
    page.keyboard.type(site.url(f"/watch/demo?v=by-keyboard&{_SLOW}"))
    page.keyboard.press("Enter")
    row = console.row(TITLE)
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row).to_contain_text(re.compile(r"\d [kM]B of"))
    row.get_by_role("link").focus()
    page.keyboard.press("Tab")
    expect(row.get_by_role("button", name=f"Pause: {TITLE}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).to_contain_text("Paused")
    row.get_by_role("button", name=f"Resume: {TITLE}").press("Enter")
    row.get_by_role("button", name=f"Cancel: {TITLE}").press("Enter")
    expect(row).to_contain_text("Cancelled")
    row.get_by_role("button", name=f"Delete: {TITLE}").press("Enter")
    page.keyboard.press("Tab")
    page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    expect(row).to_have_count(0)


def test_unknown_progress_is_stated_as_unknown(console: Console, suite: Suite, key: str, site: Site) -> None:
    """Where the site does not say how large a file is, neither the bar nor its name invents a percentage."""
    job = create_download(suite, site.url(f"/watch/demo?v=unknown&media.chunked=1&{_SLOW}"))
    page = console.open(f"jobs/{job}", key=key)
    state = page.get_by_role("region", name="State")
    expect(state).to_contain_text("B, size unknown")
    bar = state.get_by_role("progressbar")
    expect(bar).to_be_visible()
    assert bar.get_attribute("aria-valuenow") is None
    assert "%" not in state.inner_text()
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_contain_text("Cancelled")


def test_batch_names_what_was_refused(console: Console, key: str, site: Site) -> None:
    """Good lines become jobs, which filters find; a bad one stays in the form with its reason."""
    page = console.open("jobs?text=of-a-batch", key=key)
    good = [site.url(f"/watch/{name}?v=of-a-batch") for name in ("demo", "nothing")]
    console.submit(*good, "ftp://example.com/of-a-batch")
    expect(page.get_by_role("alert").filter(has_text="not accepted")).to_contain_text("ftp://example.com")
    expect(page.get_by_label("Address of a video")).to_have_value("ftp://example.com/of-a-batch")
    expect(console.row("Finished")).to_have_count(1)
    expect(console.row("Failed")).to_have_count(1)
    page.get_by_role("button", name="Failed", exact=True).click()
    expect(console.row("Finished")).to_have_count(0)
    console.row("Failed").get_by_role("link").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("SITE_UNSUPPORTED")
    expect(page.get_by_role("region", name="State")).to_contain_text("Open the page of the video itself")
    page.go_back()
    expect(page.get_by_role("button", name="Failed", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(console.row("Failed")).to_have_count(1)
    page.get_by_label("Site", exact=True).fill("elsewhere.example")
    expect(page.get_by_text("No download matches.")).to_be_visible()
    page.get_by_label("Site", exact=True).fill("127.0.0.2")
    expect(console.row("Failed")).to_have_count(1)


def test_probe_offers_qualities(console: Console, key: str, site: Site) -> None:
    """Before a download its user sees what the page contains, and picks one of its qualities."""
    page = console.open(key=key)
    page.get_by_label("Address of a video").fill(site.url("/watch/demo?v=probed"))
    page.get_by_role("button", name="Look at it first").click()
    probe = page.get_by_role("region", name="What the address contains")
    expect(probe.get_by_role("heading", name=TITLE)).to_be_visible()
    probe.get_by_role("radio", name="720p").check()
    expect(page.get_by_label("Quality", exact=True)).to_have_value("720p")


def test_playlist_shows_its_downloads(console: Console, key: str, site: Site) -> None:
    """A playlist is one job, whose page lists a download for each entry."""
    page = console.open("jobs?text=of-a-list", key=key)
    page.get_by_text("More options").click()
    page.get_by_label("The whole playlist").check()
    console.submit(site.url("/watch/several?v=of-a-list"))
    console.row("Finished").get_by_role("link").first.click()
    children = page.get_by_role("list", name="Downloads of the playlist").get_by_role("listitem")
    expect(children).to_have_count(2)
    expect(children.filter(has_text="Finished")).to_have_count(2)


def test_console_reconnects_after_a_crash_of_the_gateway(
    console: Console, suite: Suite, key: str, site: Site
) -> None:
    """While the gateway is away the console says so; then it shows what has happened meanwhile."""
    page = console.open("jobs?text=after-a-crash", key=key)
    expect(page.get_by_text("No download matches.")).to_be_visible()
    page.evaluate(
        """() => {
          window.notices = [];
          const status = document.querySelector(".connection");
          new MutationObserver(() => window.notices.push(status.textContent))
            .observe(status, { childList: true, subtree: true, characterData: true });
        }"""
    )
    suite.wait_for_restart("gateway", suite.kill("gateway"))
    expect(page.get_by_text("Connected again.")).to_be_visible()
    assert "Connection lost. Reconnecting…" in page.evaluate("window.notices")
    suite.wait_until_ready()
    create_download(suite, site.url("/watch/demo?v=after-a-crash"))
    expect(console.row(TITLE)).to_contain_text("Finished")


class _HostileSite(Site):
    """A site whose videos have HTML and scripts in their titles."""

    async def respond(self, request: Request) -> Response:
        if request.path != "/hostile":
            return await super().respond(request)
        video = {"@type": "VideoObject", "name": _HOSTILE_TITLE, "contentUrl": self.url("/media/360.mp4")}
        metadata = json.dumps({"@context": "https://schema.org", **video}).replace("<", "\\u003c")
        page = f'<html><head><script type="application/ld+json">{metadata}</script></head></html>'
        return Response(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


@pytest.fixture(scope="module")
def hostile_site() -> Iterator[Site]:
    """A running hostile site."""
    site = _HostileSite(ensure_media())
    with serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="hostile site"):
        yield site


def test_hostile_titles_are_text(console: Console, suite: Suite, key: str, hostile_site: Site) -> None:
    """HTML and scripts in a title are shown as they are written, and do nothing."""
    job = create_download(suite, hostile_site.url("/hostile"))
    assert "completed" in wait_for_end(suite, job)
    page = console.open(f"jobs/{job}", key=key)
    expect(page.get_by_role("heading", name=_HOSTILE_TITLE)).to_be_visible()
    page.get_by_role("link", name="Downloads", exact=True).click()
    expect(console.row(_HOSTILE_TITLE)).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_read_only_key_sees_no_actions(
    console: Console, suite: Suite, read_only_key: str, site: Site
) -> None:
    """Who may only read gets no form and no button that would be refused."""
    job = create_download(suite, site.url("/watch/demo?v=for-readers"), schedule_time="2027-06-01T00:00:00Z")
    page = console.open(key=read_only_key)
    expect(console.row("/watch/demo?v=for-readers")).to_be_visible()
    assert page.get_by_role("form").count() == 0
    assert page.locator(".actions button").count() == 0
    expect(page.get_by_role("link", name="Health")).to_have_count(0)
    page.get_by_role("link", name="/watch/demo?v=for-readers").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("Scheduled")
    assert page.locator(".actions button").count() == 0
    for name in ("Schedules", "Webhooks", "Keys"):
        page.get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
        assert page.get_by_role("form").count() == 0
    suite.http.delete(f"/v1/jobs/{job}").raise_for_status()


def test_schedules_webhooks_and_keys_are_managed(console: Console, key: str, site: Site) -> None:
    """A schedule is created, paused and deleted; a private webhook is refused; a key is shown once."""
    page = console.open("schedules", key=key)
    page.get_by_label("Address", exact=True).fill(site.url("/watch/feed"))
    page.get_by_role("button", name="Create").click()
    card = page.get_by_role("listitem").filter(has_text="/watch/feed")
    card.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("Paused")
    card.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)

    page.get_by_role("link", name="Webhooks").click()
    page.get_by_label("Address", exact=True).fill("https://127.0.0.1/hook")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert").filter(has_text="URL_FORBIDDEN")).to_be_visible()

    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name", exact=True).fill("for a colleague")
    page.get_by_role("button", name="Create", exact=True).click()
    secret = page.get_by_role("dialog").locator("code").inner_text()
    assert secret.startswith("rh_live_")
    page.get_by_role("button", name="Done").click()
    card = page.get_by_role("listitem").filter(has_text="for a colleague")
    card.get_by_role("button", name="Disable").click()
    expect(card).to_contain_text("Disabled")
    assert secret not in page.content()
